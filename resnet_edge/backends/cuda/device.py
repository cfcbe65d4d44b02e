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

import logging
import threading
from typing import TYPE_CHECKING

from resnet_edge.backends.cuda.resources import (
    Activation, Buffer, Event, HostBuffer, Resource, Stream,
)
from resnet_edge.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import DTypeLike

    from resnet_edge.backends.cuda.driver import DeviceProperties, Driver

__all__ = ["Device", "open_device"]

log = logging.getLogger(__name__)


class Device:
    """One GPU, in its primary context; see `open_device`.

    Attributes:
        library: What talks to the driver, for example ``pycuda 2026.1``.
        properties: What the GPU is.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._open: dict[int, Resource] = {}
        self._depth = threading.local()
        self._threads: set[int] = set()
        self._closed = False
        self.library = driver.library
        self.properties: DeviceProperties = driver.properties

    @property
    def zero_copy(self) -> bool:
        """Whether the GPU shares the CPU's memory and can work on page-locked host memory."""
        return self.properties.integrated and self.properties.can_map_host_memory

    def alloc(self, nbytes: int) -> Buffer:
        """Allocate device memory.

        Raises:
            DeviceError: There is not that much memory.
        """
        return Buffer(self, nbytes)

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
        return HostBuffer(self, shape, dtype, mapped=mapped)

    def stream(self) -> Stream:
        """Create a stream."""
        return Stream(self)

    def event(self) -> Event:
        """Create an event."""
        return Event(self)

    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total bytes of device memory."""
        with Activation(self, "asking for the free memory"):
            return self._driver.memory_info()

    def activate(self) -> Activation:
        """Make the context current on this thread for a ``with`` block; blocks may nest."""
        return Activation(self, "working on the device")

    def close(self) -> None:
        """Close everything that is still open, the latest first, then give the context back.

        Closing twice is allowed.

        Raises:
            DeviceError: A thread is still inside `activate`, or something could not be closed; all
                the rest was.
        """
        if self._closed:
            return
        if self._threads:
            raise DeviceError(
                f"{self.properties.name} cannot be closed: {len(self._threads)} threads use it"
            )
        failures = []
        for resource in reversed(list(self._open.values())):
            try:
                resource.close()
            except DeviceError as error:
                failures.append(error)
        self._closed = True
        try:
            self._driver.release()
        except self._driver.error as error:
            failures.append(Activation(self, "giving the context back").explain(error))
        if failures:
            raise failures[0]

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close without hiding the error that ended the block."""
        try:
            self.close()
        except DeviceError as failure:
            if error is None:
                raise
            log.warning("%s", failure)

    def _enter(self) -> None:
        depth = getattr(self._depth, "value", 0)
        if depth == 0:
            if self._closed:
                raise DeviceError(f"{self.properties.name} is closed")
            self._driver.push()
            self._threads.add(threading.get_ident())
        self._depth.value = depth + 1

    def _leave(self) -> None:
        self._depth.value -= 1
        if self._depth.value == 0:
            self._threads.discard(threading.get_ident())
            self._driver.pop()


def open_device(index: int = 0, *, library: Library | None = None) -> Device:
    """Open a GPU through the first of pycuda and cuda-python that imports.

    Args:
        index: Which GPU, as CUDA counts them.
        library: Use this one only.

    Raises:
        BackendUnavailableError: There is no usable driver or GPU, or neither library is installed.
        DeviceError: There is no such GPU, or it cannot be used.
    """
    status = cuda_status()
    if not status.usable:
        raise BackendUnavailableError(status.detail, hint=status.hint)
    if not 0 <= index < status.devices:
        raise DeviceError(f"there is no GPU {index}: CUDA sees {status.devices}")
    missing = []
    for name, load in _DRIVERS.items():
        if library not in (None, name):
            continue
        try:
            driver_class = load()
        except ImportError as error:
            missing.append(f"{name}: {error}")
            continue
        return Device(driver_class(index))
    raise BackendUnavailableError(
        f"no library to reach the GPU with ({'; '.join(missing)})",
        hint="pip install cuda-python, or on a Jetson pip install pycuda",
    )


def probe() -> Availability:
    """Say which library reaches the GPU, without touching the GPU."""
    missing = []
    for name, load in _DRIVERS.items():
        try:
            return Availability(True, load().version(), f"{name} reaches the GPU")
        except ImportError as error:
            missing.append(f"{name}: {error}")
    return Availability(False, None, "; ".join(missing))
