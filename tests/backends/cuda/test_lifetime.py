"""What a device gives out is given back, in order and on any thread."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_edge.backends.cuda.device import LIBRARIES
from tests.emulation.device import run_on_device

pytestmark = pytest.mark.parametrize("library", [*LIBRARIES, "cuda-python-11"])


def test_eight_threads_work_in_the_one_context(library: str) -> None:
    def work() -> list[Any]:
        from concurrent.futures import ThreadPoolExecutor

        import numpy as np

        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        with open_device() as device:

            def there_and_back(number: int) -> bool:
                with device.stream() as stream, device.alloc(4096) as buffer:
                    host = device.host_buffer((1024,), "float32")
                    for round_ in range(50):
                        host.array[:] = 1000 * number + round_
                        stream.copy_to_device(buffer, host.array)
                        host_again = np.zeros(1024, np.float32)
                        with device.activate():
                            stream.copy_to_host(host_again, buffer)
                            stream.synchronize()
                        if not (host_again == 1000 * number + round_).all():
                            return False
                    host.close()
                return control.depth() == 0

            with ThreadPoolExecutor(8) as pool:
                right = list(pool.map(there_and_back, range(8)))
            alive = control.live()
        return [right, alive, control.abandoned(), control.retained(), control.depth()]

    assert run_on_device(library, work) == [[True] * 8, {}, 0, 0, 0]


def test_ten_thousand_runs_leave_nothing_behind(library: str) -> None:
    def work() -> list[Any]:
        import resource

        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        with open_device() as device, device.activate():
            stream, start, end = device.stream(), device.event(), device.event()
            buffer, host = device.alloc(1024), device.host_buffer((256,), "float32")

            def run() -> None:
                start.record(stream)
                stream.copy_to_device(buffer, host.array)
                stream.copy_to_host(host.array, buffer)
                end.record(stream)
                stream.synchronize()
                end.elapsed_ms(start)

            def churn() -> None:
                memory = device.alloc(1024), device.host_buffer((8,), "uint8")
                with memory[0], memory[1], device.event(), device.stream() as other:
                    other.capture(lambda: None).close()

            def state() -> list[Any]:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                return [control.live(), control.live_bytes(), peak]

            for _ in range(500):
                run()
                churn()
            before = state()
            for _ in range(10_000):
                run()
                churn()
            after = state()
        return [before, after, control.live(), control.abandoned(), control.retained()]

    before, after, end, abandoned, retained = run_on_device(library, work)
    assert before[:2] == after[:2]
    assert after[2] - before[2] < 2048  # KiB
    assert (end, abandoned, retained) == ({}, 0, 0)


def test_what_is_left_open_is_closed_latest_first_and_the_context_last(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        with open_device() as device:
            buffer = device.alloc(8)
            device.event()
            stream = device.stream()
            device.host_buffer((8,), "uint8")
            stream.capture(lambda: None)
            buffer.close()
            buffer.close()
            control.called()
        closed = [name for name in control.called() if "Ctx" not in name or "Release" in name]
        return [closed, control.live(), control.abandoned(), control.retained(), control.depth()]

    closed, alive, abandoned, retained, depth = run_on_device(library, work)
    waited, *freed = closed[:5]
    assert waited == "cuStreamSynchronize"
    assert freed == ["cuGraphExecDestroy", "cuMemFreeHost", "cuStreamDestroy", "cuEventDestroy"]
    assert set(closed[5:]) == {"cuDevicePrimaryCtxRelease"}
    assert (alive, abandoned, retained, depth) == ({}, 0, 0, 0)


def test_the_primary_context_is_shared_with_what_else_uses_it(library: str) -> None:
    """PyTorch or TensorRT may hold the context, and have it current on this thread."""

    def work() -> list[Any]:
        import ctypes

        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        driver = ctypes.CDLL("libcuda.so.1")
        driver.cuInit(0)
        other, current = ctypes.c_void_p(), ctypes.c_void_p()
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(other), 0)
        driver.cuCtxPushCurrent_v2(other)
        with open_device() as device:
            device.alloc(16)
            shared = control.retained()
        driver.cuCtxGetCurrent(ctypes.byref(current))
        return [shared, control.retained(), control.depth(), current.value == other.value]

    assert run_on_device(library, work) == [2, 1, 1, True]


def test_a_device_can_be_closed_on_another_thread(library: str) -> None:
    def work() -> list[Any]:
        from threading import Thread

        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        device = open_device()
        device.alloc(16)
        device.stream()
        thread = Thread(target=device.close)
        thread.start()
        thread.join()
        device.close()
        return [control.live(), control.abandoned(), control.retained(), control.depth()]

    assert run_on_device(library, work) == [{}, 0, 0, 0]


def test_a_device_in_use_is_not_closed(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        device = open_device()
        with device.activate(), device.activate():
            try:
                device.close()
            except DeviceError as error:
                message = error.message
            device.alloc(4)
        device.close()
        return [message, control.live(), control.retained()]

    message, alive, retained = run_on_device(library, work)
    assert "1 threads use it" in message
    assert (alive, retained) == ({}, 0)


def test_what_is_closed_cannot_be_used(library: str) -> None:
    def work() -> list[str]:
        import numpy as np
        import pytest

        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError

        device = open_device()
        open_stream = device.stream()
        closed = [device.stream(), device.event(), device.alloc(8)]
        stream, event, buffer = closed
        for resource in closed:
            resource.close()
        array = np.zeros(8, np.uint8)
        messages = []
        for use in (
            stream.synchronize,
            event.synchronize,
            lambda: event.record(open_stream),
            lambda: open_stream.copy_to_device(buffer, array),
            lambda: (device.close(), device.alloc(8)),
            lambda: device.activate().__enter__(),
        ):
            with pytest.raises(DeviceError) as caught:
                use()
            messages.append(caught.value.message)
        return messages

    assert run_on_device(library, work) == [
        "this Stream is closed",
        "this Event is closed",
        "this Event is closed",
        "this Buffer is closed",
        "Emulated GPU is closed",
        "Emulated GPU is closed",
    ]


def test_every_gpu_has_its_own_context(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        with open_device(0) as first, open_device(1) as second:
            second.alloc(8)
            with first.activate():
                first.alloc(8)
                second.alloc(8)
            held = [control.retained(0), control.retained(1)]
            second.close()
            alive = control.live()
        return [held, alive, control.live(), control.retained(0), control.retained(1)]

    result = run_on_device(library, work, devices=2)
    assert result == [[1, 1], {"device memory": 1}, {}, 0, 0]
