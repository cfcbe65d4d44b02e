"""pycuda: what Jetson code uses; built from source against the CUDA toolkit."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.cuda.driver import DeviceProperties, Driver

__all__ = ["PycudaDriver"]

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class PycudaDriver(Driver):
    """The driver API through pycuda.

    pycuda frees streams and events when the last reference goes.

    Raises:
        ImportError: pycuda is not installed, or there is no NVIDIA driver.
    """

    def __init__(self) -> None:
        import pycuda.driver  # unlike pycuda.autoinit it creates no context

        self._cuda = pycuda.driver
        self._library = ctypes.CDLL("libcuda.so.1")  # for what pycuda does not have
        self.library = f"pycuda {pycuda.VERSION_TEXT}"
        self.error = self._cuda.Error

    def open(self, index: int) -> DeviceProperties:
        """Retain the primary context of a GPU; return what the GPU is."""
        self._cuda.init()
        device = self._cuda.Device(index)
        attribute = self._cuda.device_attribute
        properties = DeviceProperties(
            device.name(),
            "{}.{}".format(*device.compute_capability()),
            device.total_memory(),
            integrated=bool(device.get_attribute(attribute.INTEGRATED)),
            can_map_host_memory=bool(device.get_attribute(attribute.CAN_MAP_HOST_MEMORY)),
        )
        self._index = index
        self._thread = threading.current_thread()
        self._context: Any = device.retain_primary_context()
        return properties

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function that pycuda does not have; integers are passed as C ``int``."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p(b"an unknown error")
            self._library.cuGetErrorName(code, ctypes.byref(text))
            kind = self._cuda.MemoryError if code == _OUT_OF_MEMORY else self._cuda.LogicError
            raise kind(f"{name} failed: {(text.value or b'').decode()}")

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a failed call ran out of memory."""
        return isinstance(error, self._cuda.MemoryError)

    def push(self) -> None:
        """Make the context current on this thread."""
        self._context.push()

    def pop(self) -> None:
        """Restore what was current before `push`."""
        self._context.pop()

    def release(self) -> None:
        """Give the primary context back.

        When the last reference goes pycuda (2026.1) calls ``cuCtxDetach``, which does not belong
        to a primary context, so it has to be told. On the thread that retained the context it
        then leaves it current; on any other thread it gives nothing back. One more reference
        keeps the context alive until both are put right.
        """
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(ctypes.c_void_p()), self._index)
        self._context.detach()
        if threading.current_thread() is self._thread:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        else:
            self._call("cuDevicePrimaryCtxRelease_v2", self._index)
        self._call("cuDevicePrimaryCtxRelease_v2", self._index)

    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total bytes of device memory."""
        free, total = self._cuda.mem_get_info()
        return free, total

    def allocate(self, nbytes: int) -> Any:
        """Allocate device memory."""
        return self._cuda.mem_alloc(nbytes)

    def address(self, allocation: Any) -> int:
        """Return where device memory begins."""
        return int(allocation)

    def free(self, allocation: Any) -> None:
        """Free device memory."""
        allocation.free()

    def allocate_host(self, nbytes: int, *, mapped: bool) -> tuple[Any, NDArray[Any]]:
        """Allocate page-locked host memory; return it, and its bytes as an array."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        memory = self._cuda.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        return memory.base, memory

    def mapped_address(self, allocation: Any) -> int:
        """Return where mapped host memory begins in the address space of the GPU."""
        return int(allocation.get_device_pointer())

    def free_host(self, allocation: Any) -> None:
        """Free page-locked host memory."""
        allocation.free()

    def create_stream(self) -> Any:
        """Create a stream that does not wait for the default stream."""
        return self._cuda.Stream(_NON_BLOCKING)

    def stream_handle(self, stream: Any) -> int:
        """Return the ``CUstream`` as an integer."""
        return int(stream.handle)

    def synchronize_stream(self, stream: Any) -> None:
        """Wait until all work on a stream is done."""
        stream.synchronize()

    def destroy_stream(self, stream: Any) -> None:
        """Leave a stream to pycuda, whose last reference this is."""

    def copy_to_device(self, destination: int, source: NDArray[Any], stream: Any) -> None:
        """Begin to copy a contiguous array to a device address."""
        self._cuda.memcpy_htod_async(destination, source, stream)

    def copy_to_host(self, destination: NDArray[Any], source: int, stream: Any) -> None:
        """Begin to copy from a device address into a contiguous array."""
        self._cuda.memcpy_dtoh_async(destination, source, stream)

    def create_event(self) -> Any:
        """Create an event that takes the time."""
        return self._cuda.Event()

    def record_event(self, event: Any, stream: Any) -> None:
        """Put an event behind the work of a stream."""
        event.record(stream)

    def synchronize_event(self, event: Any) -> None:
        """Wait until an event has happened."""
        event.synchronize()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events that have happened."""
        return float(end.time_since(start))

    def destroy_event(self, event: Any) -> None:
        """Leave an event to pycuda, whose last reference this is."""

    def begin_capture(self, stream: Any) -> None:
        """Record the work put on a stream from now on instead of doing it."""
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), _THREAD_LOCAL)

    def end_capture(self, stream: Any) -> Any:
        """Return the recorded work as an executable graph."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream.handle), ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        return executable

    def abandon_capture(self, stream: Any) -> None:
        """End a recording and drop it; a recording that already failed is no error."""
        graph = ctypes.c_void_p()
        self._library.cuStreamEndCapture(ctypes.c_void_p(stream.handle), ctypes.byref(graph))
        if graph:
            self._call("cuGraphDestroy", graph)

    def launch_graph(self, graph: Any, stream: Any) -> None:
        """Begin to run a graph."""
        self._call("cuGraphLaunch", graph, ctypes.c_void_p(stream.handle))

    def destroy_graph(self, graph: Any) -> None:
        """Destroy an executable graph."""
        self._call("cuGraphExecDestroy", graph)
