"""The device layer over both libraries, on an emulated device."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_edge.backends.cuda.device import LIBRARIES
from tests.emulation.device import run_on_device

pytestmark = pytest.mark.parametrize("library", [*LIBRARIES, "cuda-python-11"])


def test_the_device_says_what_it_is_and_what_reaches_it(library: str) -> None:
    def work(library: str) -> list[Any]:
        from dataclasses import astuple

        from resnet_edge.backends.cuda.device import open_device, probe

        with open_device() as device:
            return [device.library, probe().detail, astuple(device.properties), device.zero_copy]

    name, probed, properties, zero_copy = run_on_device(
        library, work, library, name="Orin", major=8, minor=7, memory_mib=64, integrated=1
    )
    begins = {"pycuda": "pycuda 20", "cuda-python": "cuda-python 1"}
    assert name.startswith(begins.get(library, "cuda-python 11."))
    assert probed == name
    assert properties == ["Orin", "8.7", 64 << 20, True, True]
    assert zero_copy


def test_copies_go_there_and_back_when_the_stream_gets_to_them(library: str) -> None:
    def work() -> list[Any]:
        import numpy as np

        from resnet_edge.backends.cuda.device import open_device

        with open_device() as device:
            stream, buffer = device.stream(), device.alloc(64)
            source = device.host_buffer((2, 3), "float32")
            target = device.host_buffer((2, 3), "float32")
            source.array[:] = np.arange(6).reshape(2, 3)
            stream.copy_to_device(buffer, source.array)
            stream.copy_to_host(target.array, buffer)
            before = target.array.tolist()
            stream.synchronize()
            pageable = np.empty((2, 3), np.float32)
            stream.copy_to_host(pageable, buffer)
            stream.synchronize()
            return [before, target.array.tolist(), pageable.tolist(), stream.handle > 0]

    before, after, pageable, has_handle = run_on_device(library, work)
    assert before == [[0, 0, 0], [0, 0, 0]]
    assert after == pageable == [[0, 1, 2], [3, 4, 5]]
    assert has_handle


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64"])
def test_page_locked_memory_is_an_array_of_zeros(library: str, dtype: str) -> None:
    def work(dtype: str) -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device

        with open_device() as device:
            host = device.host_buffer((3, 5), dtype)
            array = host.array
            flags = array.flags.c_contiguous and array.flags.writeable
            return [str(array.dtype), array.shape, not array.any(), host.nbytes, bool(flags)]

    itemsize = {"float32": 4, "float16": 2, "uint8": 1, "int64": 8}[dtype]
    assert run_on_device(library, work, dtype) == [dtype, [3, 5], True, 15 * itemsize, True]


def test_an_integrated_gpu_works_on_host_memory_itself(library: str) -> None:
    """The emulated device sees mapped memory at another address than the host does."""

    def work() -> list[Any]:
        import ctypes

        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        with open_device() as device:
            host = device.host_buffer((4,), "uint8")
            plain = device.host_buffer((4,), "uint8", mapped=False)
            host.array[:] = [1, 2, 3, 4]
            seen = list(ctypes.string_at(host.device_pointer, 4))
            ctypes.memset(host.device_pointer, 9, 4)
            return [
                seen,
                host.array.tolist(),
                host.device_pointer != host.array.ctypes.data,
                control.is_device_memory(host.device_pointer, 4),
                plain.device_pointer,
            ]

    result = run_on_device(library, work, integrated=1)
    assert result == [[1, 2, 3, 4], [9, 9, 9, 9], True, True, None]


def test_a_discrete_gpu_gets_copies_unless_mapping_is_asked_for(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device

        with open_device() as device:
            host = device.host_buffer((4,), "uint8")
            mapped = device.host_buffer((4,), "uint8", mapped=True)
            return [device.zero_copy, host.device_pointer, mapped.device_pointer is not None]

    assert run_on_device(library, work) == [False, None, True]


def test_mapping_is_refused_where_the_device_cannot(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError

        with open_device() as device:
            try:
                device.host_buffer((4,), "uint8", mapped=True)
            except DeviceError as error:
                return [error.message, device.zero_copy]
        return []

    message, zero_copy = run_on_device(library, work, name="Old", integrated=1, map_host=0)
    assert "Old cannot map" in message
    assert not zero_copy


def test_events_take_the_time_of_the_work_between_them(library: str) -> None:
    def work() -> list[float]:
        import ctypes
        import time

        from resnet_edge.backends.cuda.device import open_device

        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: time.sleep(0.05))
        with open_device() as device:
            stream, first, second, third = (
                device.stream(), device.event(), device.event(), device.event(),
            )  # fmt: skip
            first.record(stream)
            handle = ctypes.c_void_p(stream.handle)
            with device.activate():
                assert not ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc(handle, function, None)
            second.record(stream)
            third.record(stream)
            second.synchronize()
            third.synchronize()
            return [second.elapsed_ms(first), third.elapsed_ms(second), first.elapsed_ms(second)]

    worked, idle, backwards = run_on_device(library, work)
    assert worked >= 50
    assert 0 <= idle < 50
    assert backwards == -worked


def test_the_time_of_an_event_that_has_not_happened_is_refused(library: str) -> None:
    def work() -> str:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError

        with open_device() as device:
            stream, first, second = device.stream(), device.event(), device.event()
            first.record(stream)
            second.record(stream)
            try:
                second.elapsed_ms(first)
            except DeviceError as error:
                return error.message
        return ""

    assert "reading the time of an event failed" in run_on_device(library, work)


def test_a_graph_repeats_what_was_captured(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        with open_device() as device:
            stream, buffer = device.stream(), device.alloc(4)
            source = device.host_buffer((4,), "uint8")
            target = device.host_buffer((4,), "uint8")

            def there_and_back() -> None:
                stream.copy_to_device(buffer, source.array)
                stream.copy_to_host(target.array, buffer)

            source.array[:] = 1
            graph = stream.capture(there_and_back)
            stream.synchronize()
            seen = [target.array.tolist()]
            for value in (2, 3):
                source.array[:] = value
                graph.launch()
                stream.synchronize()
                seen.append(target.array.tolist())
            alive = control.live()
            graph.close()
            return [seen, alive, control.live()]

    seen, alive, after = run_on_device(library, work)
    assert seen == [[0] * 4, [2] * 4, [3] * 4]
    assert alive["executable graphs"] == 1
    assert "graphs" not in alive
    assert "executable graphs" not in after


def test_what_cannot_be_captured_is_our_error_and_the_stream_goes_on(library: str) -> None:
    def work() -> list[Any]:
        import pytest

        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        errors = []
        with open_device() as device:
            stream, buffer = device.stream(), device.alloc(4)
            source = device.host_buffer((4,), "uint8")

            def wrong() -> None:
                raise KeyError("not a device error")

            for forbidden in (stream.synchronize, lambda: device.alloc(4), wrong):
                with pytest.raises((DeviceError, KeyError)) as caught:
                    stream.capture(forbidden)
                errors.append([caught.typename, str(caught.value)])
            stream.copy_to_device(buffer, source.array)
            stream.synchronize()
            return [errors, control.live()]

    errors, alive = run_on_device(library, work)
    assert [kind for kind, _ in errors] == ["DeviceError", "DeviceError", "KeyError"]
    assert "capturing" in errors[0][1] or "running" in errors[0][1]
    assert not {"graphs", "executable graphs"} & set(alive)


def test_copies_that_do_not_fit_are_refused(library: str) -> None:
    def work() -> list[str]:
        import numpy as np
        import pytest

        from resnet_edge.backends.cuda.device import open_device

        messages = []
        with open_device() as device, device.stream() as stream, device.alloc(8) as buffer:
            for array in (np.zeros(9, np.uint8), np.zeros((4, 4), np.uint8)[:, :2]):
                for copy in (
                    lambda a=array: stream.copy_to_device(buffer, a),
                    lambda a=array: stream.copy_to_host(a, buffer),
                ):
                    with pytest.raises(ValueError) as caught:
                        copy()
                    messages.append(str(caught.value))
        return messages

    messages = run_on_device(library, work)
    assert (
        messages
        == ["9 bytes do not fit a buffer of 8"] * 2 + ["only contiguous arrays can be copied"] * 2
    )


def test_a_gpu_that_is_not_there_is_our_error(library: str) -> None:
    def work() -> str:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError

        try:
            open_device(2)
        except DeviceError as error:
            return error.message
        return ""

    assert run_on_device(library, work, devices=2) == "there is no GPU 2: CUDA counts 2, from 0"
