"""The CUDA driver calls the project needs; one class per Python library provides them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = ["DeviceProperties", "Driver"]


@dataclass(frozen=True)
class DeviceProperties:
    """What a GPU is.

    Attributes:
        name: Product name, for example ``Orin``.
        compute_capability: For example ``8.7``.
        total_memory: Bytes; on an integrated GPU the memory it shares with the CPU.
        integrated: Whether CPU and GPU share their memory, as on a Jetson.
        can_map_host_memory: Whether kernels can read and write page-locked host memory.
    """

    name: str
    compute_capability: str
    total_memory: int
    integrated: bool
    can_map_host_memory: bool


class Driver(ABC):
    """The driver API of one GPU, through one Python library, in the GPU's primary context.

    The primary context is the one that the CUDA runtime, PyTorch and TensorRT use. Nothing here
    makes it current, keeps track of what is open or explains errors: `Device` does.

    Allocations, streams, events and graphs are whatever the library uses for them.

    Attributes:
        library: Name and version, for example ``pycuda 2026.1``.
        error: What the library raises when a call fails.
    """

    library: str
    error: type[Exception]

    @abstractmethod
    def open(self, index: int) -> DeviceProperties:
        """Retain the primary context of a GPU; return what the GPU is."""

    @abstractmethod
    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a failed call ran out of memory."""

    @abstractmethod
    def push(self) -> None:
        """Make the context current on this thread."""

    @abstractmethod
    def pop(self) -> None:
        """Restore what was current before `push`."""

    @abstractmethod
    def release(self) -> None:
        """Give the primary context back; it must not be current on any thread."""

    @abstractmethod
    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total bytes of device memory."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Any:
        """Allocate device memory."""

    @abstractmethod
    def address(self, allocation: Any) -> int:
        """Return where device memory begins."""

    @abstractmethod
    def free(self, allocation: Any) -> None:
        """Free device memory."""

    @abstractmethod
    def allocate_host(self, nbytes: int, *, mapped: bool) -> tuple[Any, NDArray[Any]]:
        """Allocate page-locked host memory; return it, and its bytes as an array."""

    @abstractmethod
    def mapped_address(self, allocation: Any) -> int:
        """Return where mapped host memory begins in the address space of the GPU."""

    @abstractmethod
    def free_host(self, allocation: Any) -> None:
        """Free page-locked host memory."""

    @abstractmethod
    def create_stream(self) -> Any:
        """Create a stream that does not wait for the default stream."""

    @abstractmethod
    def stream_handle(self, stream: Any) -> int:
        """Return the ``CUstream`` as an integer."""

    @abstractmethod
    def synchronize_stream(self, stream: Any) -> None:
        """Wait until all work on a stream is done."""

    @abstractmethod
    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""

    @abstractmethod
    def copy_to_device(self, destination: int, source: NDArray[Any], stream: Any) -> None:
        """Begin to copy a contiguous array to a device address."""

    @abstractmethod
    def copy_to_host(self, destination: NDArray[Any], source: int, stream: Any) -> None:
        """Begin to copy from a device address into a contiguous array."""

    @abstractmethod
    def create_event(self) -> Any:
        """Create an event that takes the time."""

    @abstractmethod
    def record_event(self, event: Any, stream: Any) -> None:
        """Put an event behind the work of a stream."""

    @abstractmethod
    def synchronize_event(self, event: Any) -> None:
        """Wait until an event has happened."""

    @abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events that have happened."""

    @abstractmethod
    def destroy_event(self, event: Any) -> None:
        """Destroy an event."""

    @abstractmethod
    def begin_capture(self, stream: Any) -> None:
        """Record the work put on a stream from now on instead of doing it."""

    @abstractmethod
    def end_capture(self, stream: Any) -> Any:
        """Return the recorded work as an executable graph."""

    @abstractmethod
    def abandon_capture(self, stream: Any) -> None:
        """End a recording and drop it; a recording that already failed is no error."""

    @abstractmethod
    def launch_graph(self, graph: Any, stream: Any) -> None:
        """Begin to run a graph."""

    @abstractmethod
    def destroy_graph(self, graph: Any) -> None:
        """Destroy an executable graph."""
