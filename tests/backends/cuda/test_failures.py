"""Every failure of the driver becomes our error, and nothing stays behind."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_edge.backends.cuda.device import LIBRARIES
from tests.emulation.device import run_on_device

pytestmark = pytest.mark.parametrize("library", LIBRARIES)

# The function that fails, its error, what our message says was being done.
FAILURES = [
    ("cuMemAlloc", "OUT_OF_MEMORY", "allocating device memory"),
    ("cuMemHostAlloc", "OUT_OF_MEMORY", "allocating page-locked memory"),
    ("cuMemHostGetDevicePointer", "INVALID_VALUE", "allocating page-locked memory"),
    ("cuStreamCreate", "OUT_OF_MEMORY", "creating a stream"),
    ("cuEventCreate", "OUT_OF_MEMORY", "creating an event"),
    ("cuMemcpyHtoDAsync", "INVALID_VALUE", "copying to the device"),
    ("cuMemcpyDtoHAsync", "INVALID_VALUE", "copying from the device"),
    ("cuEventRecord", "INVALID_VALUE", "recording an event"),
    ("cuEventSynchronize", "INVALID_VALUE", "waiting for an event"),
    ("cuEventElapsedTime", "INVALID_VALUE", "reading the time of an event"),
    ("cuStreamSynchronize", "INVALID_VALUE", "running on the device"),
    ("cuStreamBeginCapture", "INVALID_VALUE", "capturing a CUDA graph"),
    ("cuStreamEndCapture", "INVALID_VALUE", "capturing a CUDA graph"),
    ("cuGraphInstantiateWithFlags", "OUT_OF_MEMORY", "capturing a CUDA graph"),
    ("cuGraphLaunch", "INVALID_VALUE", "launching a CUDA graph"),
    ("cuMemGetInfo", "INVALID_VALUE", "asking for the free memory"),
    ("cuCtxPushCurrent", "INVALID_VALUE", ""),
]


@pytest.mark.parametrize(("function", "code", "doing"), FAILURES, ids=[f[0] for f in FAILURES])
def test_a_failed_call_is_our_error(library: str, function: str, code: str, doing: str) -> None:
    def work(function: str, code: str) -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        def use(device: Any) -> None:
            device.memory_info()
            stream, start, end = device.stream(), device.event(), device.event()
            buffer, host = device.alloc(64), device.host_buffer((64,), "uint8", mapped=True)

            def copies() -> None:
                stream.copy_to_device(buffer, host.array)
                stream.copy_to_host(host.array, buffer)

            start.record(stream)
            copies()
            end.record(stream)
            end.synchronize()
            end.elapsed_ms(start)
            stream.synchronize()
            stream.capture(copies).launch()

        caught = []
        with open_device() as device:
            # pycuda collects garbage and tries once more where memory is short.
            times = 2 if function == "cuMemAlloc" and device.library.startswith("pycuda") else 1
            control.fail(function, getattr(control, code), times=times)
            try:
                use(device)
            except DeviceError as error:
                caught = [error.message, error.hint, type(error.__cause__).__name__]
            use(device)  # the device is as good as before
        return [caught, control.live(), control.abandoned(), control.retained(), control.depth()]

    caught, *left = run_on_device(library, work, function, code, name="Orin")
    message, hint, cause = caught
    assert left == [{}, 0, 0, 0]
    assert message.startswith("Orin")
    assert doing in message
    assert cause in ("CudaCallError", "MemoryError", "LogicError", "RuntimeError", "Error")
    if code == "OUT_OF_MEMORY":
        assert "smaller batch" in hint
    else:
        assert hint is None
        assert function in message


def test_out_of_memory_names_the_bytes(library: str) -> None:
    def work() -> list[Any]:
        import pytest

        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        messages = []
        with open_device() as device:
            total = device.memory_info()
            device.alloc(20 << 20)
            for allocate in (
                lambda: device.alloc(12_582_913),
                lambda: device.host_buffer((3, 4_000_000), "float32"),
            ):
                with pytest.raises(DeviceError) as caught:
                    allocate()
                messages.append(f"{caught.value.message} {caught.value.hint}")
            return [total, messages, device.memory_info(), control.live()]

    total, messages, left, alive = run_on_device(library, work, memory_mib=32, name="Orin")
    assert total == [32 << 20, 32 << 20]
    assert left == [12 << 20, 32 << 20]
    assert alive == {"device memory": 1}
    assert "Orin has no memory left" in messages[0]
    assert "(12,582,913 bytes)" in messages[0]
    assert "(48,000,000 bytes)" in messages[1]
    assert all("smaller batch" in message for message in messages)


def test_a_buffer_that_could_not_be_mapped_is_freed_at_once(library: str) -> None:
    def work() -> dict[str, int]:
        import pytest

        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        with open_device() as device:
            control.fail("cuMemHostGetDevicePointer", control.INVALID_VALUE)
            with pytest.raises(DeviceError):
                device.host_buffer((8,), "uint8", mapped=True)
            return control.live()

    assert run_on_device(library, work) == {}


def test_memory_freed_under_a_copy_is_an_illegal_address(library: str) -> None:
    """The emulated device does not wait in ``cuMemFree``, as nothing says that a real one must."""

    def work() -> str:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError

        try:
            with open_device() as device, device.stream() as stream:
                host = device.host_buffer((64,), "uint8")
                with device.alloc(64) as buffer:
                    stream.copy_to_device(buffer, host.array)
                stream.synchronize()
        except DeviceError as error:
            return error.message
        return ""

    assert "ILLEGAL_ADDRESS" in run_on_device(library, work)


def test_a_device_waits_for_its_streams_before_it_frees(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from tests.emulation import control

        with open_device() as device:
            stream, buffer = device.stream(), device.alloc(64)
            host = device.host_buffer((64,), "uint8")
            stream.capture(lambda: stream.copy_to_device(buffer, host.array)).launch()
        return [control.live(), control.abandoned(), control.retained()]

    assert run_on_device(library, work) == [{}, 0, 0]


def test_a_failed_kernel_breaks_the_device_and_the_first_error_is_kept(library: str) -> None:
    """As after a real one: every later call fails, so nothing can be given back any more."""

    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        errors = []
        try:
            with open_device() as device:
                stream = device.stream()
                device.alloc(8)
                control.break_device()
                try:
                    stream.synchronize()
                except DeviceError as error:
                    errors.append(error.message)
                    raise
        except DeviceError as error:
            errors.append(error.message)
        return [errors, control.retained(), control.depth()]

    errors, retained, depth = run_on_device(library, work)
    assert errors[0] == errors[1]
    assert "running on the device failed" in errors[0]
    assert (retained, depth) == (0, 0)


def test_a_device_that_cannot_be_opened_is_our_error(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        control._LIBRARY.cuInit(0)
        messages = []
        # The first two are called before, when the status is asked.
        for function, call in (
            ("cuDeviceGet", 2), ("cuDeviceGetName", 2), ("cuDevicePrimaryCtxRetain", 1),
        ):  # fmt: skip
            control.fail(function, control.INVALID_VALUE, call=call)
            try:
                open_device()
            except DeviceError as error:
                messages.append(error.message)
        open_device().close()
        return [messages, control.retained()]

    messages, retained = run_on_device(library, work)
    assert len(messages) == 3
    assert all(message.startswith("GPU 0 cannot be used: ") for message in messages)
    assert retained == 0
