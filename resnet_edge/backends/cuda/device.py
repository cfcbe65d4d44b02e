"""A GPU with its memory, streams, events and graphs, whatever library talks to the driver.

::

    with open_device() as device:
        stream = device.stream()
        host = device.host_buffer((1, 3, 224, 224), "float32")
        buffer = device.alloc(host.nbytes)
        host.array[:] = image
        stream.copy_to_device(buffer, host.array)
        context.set_tensor_address("input", buffer.pointer)
        context.execute_async_v3(stream.handle)
        stream.synchronize()

Everything opened on a device can be closed alone, in a ``with`` block, or is closed with the
device: the latest first, the context last. The methods of these classes make the context current
themselves, on any thread; code that calls the GPU through other libraries does so inside
``with device.activate()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from numpy.typing import DTypeLike

from resnet_edge.backends.base import Availability
from resnet_edge.backends.closing import Closing
from resnet_edge.backends.cuda.context import Activation, Context
from resnet_edge.backends.cuda.driver import DeviceProperties, Driver
from resnet_edge.backends.cuda.resources import Buffer, Event, HostBuffer, Stream
from resnet_edge.backends.cuda.status import cuda_status
from resnet_edge.errors import BackendUnavailableError, DeviceError

__all__ = ["LIBRARIES", "Device", "open_device", "probe"]

LIBRARIES = ("pycuda", "cuda-python")


class Device(Closing):
    """One GPU, in its primary context; see `open_device`.

    Attributes:
        library: What talks to the driver, for example ``pycuda 2026.1``.
        properties: What the GPU is.
    """

    def __init__(self, driver: Driver, index: int) -> None:
        self.library = driver.library
        try:
            self.properties: DeviceProperties = driver.open(index)
        except driver.error as error:
            raise DeviceError(f"GPU {index} cannot be used: {error}") from error
        self._context = Context(driver, self.properties.name)

    @property
    def zero_copy(self) -> bool:
        """Whether the GPU shares the CPU's memory and can work on page-locked host memory."""
        return self.properties.integrated and self.properties.can_map_host_memory

    def alloc(self, nbytes: int) -> Buffer:
        """Allocate device memory.

        Raises:
            DeviceError: There is not that much memory.
        """
        return Buffer(self._context, nbytes)

    def host_buffer(
        self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool | None = None
    ) -> HostBuffer:
        """Allocate page-locked host memory.

        Args:
            shape: Extents of the array.
            dtype: Its element type.
            mapped: Whether the device works on it directly. Without it, `zero_copy` decides.

        Raises:
            DeviceError: There is not that much memory, or the device cannot map host memory.
        """
        mapped = self.zero_copy if mapped is None else mapped
        if mapped and not self.properties.can_map_host_memory:
            raise DeviceError(f"{self.properties.name} cannot map host memory")
        return HostBuffer(self._context, shape, dtype, mapped=mapped)

    def stream(self) -> Stream:
        """Create a stream."""
        return Stream(self._context)

    def event(self) -> Event:
        """Create an event."""
        return Event(self._context)

    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total bytes of device memory."""
        with Activation(self._context, "asking for the free memory"):
            return self._context.driver.memory_info()

    def activate(self) -> Activation:
        """Make the context current on this thread for a ``with`` block; blocks may nest."""
        return Activation(self._context, "working on the device")

    def close(self) -> None:
        """Wait for all streams, close everything, the latest first, then give the context back.

        Closing twice is allowed.

        Raises:
            DeviceError: A thread is still inside `activate`, or something could not be closed; all
                the rest was.
        """
        context = self._context
        if context.closed:
            return
        if context.threads:
            raise DeviceError(
                f"{context.name} cannot be closed: {len(context.threads)} threads use it"
            )
        with ExitStack() as stack:
            stack.callback(context.release)
            for resource in context.opened.values():
                stack.callback(resource.close)
            for resource in context.opened.values():
                if isinstance(resource, Stream):
                    stack.callback(resource.synchronize)


def open_device(index: int = 0, *, library: str | None = None) -> Device:
    """Open a GPU through the first of pycuda and cuda-python that imports.

    Args:
        index: Which GPU, as CUDA counts them.
        library: One of `LIBRARIES`, to use that one only.

    Raises:
        BackendUnavailableError: There is no usable driver or GPU, or neither library is installed.
        DeviceError: There is no such GPU, or it cannot be used.
    """
    status = cuda_status()
    if not status.usable:
        raise BackendUnavailableError(status.detail, hint=status.hint)
    if not 0 <= index < status.devices:
        raise DeviceError(f"there is no GPU {index}: CUDA counts {status.devices}, from 0")
    return Device(_load_driver(LIBRARIES if library is None else (library,)), index)


def probe() -> Availability:
    """Say which library would reach the GPU, without touching the GPU."""
    try:
        library = _load_driver(LIBRARIES).library
    except BackendUnavailableError as error:
        return Availability(False, None, f"{error.message}: {error.hint}")
    return Availability(True, library.split()[-1], library)


def _load_driver(libraries: Sequence[str]) -> Driver:
    missing = []
    for library in libraries:
        try:
            if library == "pycuda":
                from resnet_edge.backends.cuda.pycuda_driver import PycudaDriver

                return PycudaDriver()
            from resnet_edge.backends.cuda.cuda_python import CudaPythonDriver

            return CudaPythonDriver()
        except ImportError as error:  # noqa: PERF203  # two turns
            missing.append(f"{library}: {error}")
    raise BackendUnavailableError(
        f"no library reaches the GPU from Python ({'; '.join(missing)})",
        hint="pip install cuda-python, or where there is a CUDA toolkit pip install pycuda",
    )
