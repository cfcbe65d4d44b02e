"""NVIDIA's cuda-python: the driver API as it is in C, in prebuilt wheels."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.cuda.driver import DeviceProperties, Driver

__all__ = ["CudaPythonDriver"]


class CudaCallError(Exception):
    """A driver call returned an error.

    Args:
        call: Name of the function.
        code: What it returned, a ``CUresult``.
    """

    def __init__(self, call: str, code: Any) -> None:
        super().__init__(f"{call} returned {code.name}")
        self.code = code


class CudaPythonDriver(Driver):
    """The driver API through cuda-python.

    Raises:
        ImportError: cuda-python is not installed.
    """

    error = CudaCallError

    def __init__(self) -> None:
        try:
            from cuda import bindings as package
            from cuda.bindings import driver
        except ImportError:  # their names before cuda-python 12.6
            import cuda as package
            from cuda import cuda as driver
        self._cuda = driver
        old = hasattr(driver, "cuGraphInstantiateWithFlags")  # cuda-python 11
        self._instantiate = "cuGraphInstantiateWithFlags" if old else "cuGraphInstantiate"
        self.library = f"cuda-python {package.__version__}"

    def open(self, index: int) -> DeviceProperties:
        """Retain the primary context of a GPU; return what the GPU is."""
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", index)
        properties = self._read_properties()
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        return properties

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function; return its result, or a list of its results."""
        code, *values = getattr(self._cuda, name)(*arguments)
        if code != self._cuda.CUresult.CUDA_SUCCESS:
            raise CudaCallError(name, code)
        return values[0] if len(values) == 1 else values

    def _read_properties(self) -> DeviceProperties:
        attributes = self._cuda.CUdevice_attribute

        def read(name: str) -> int:
            attribute = getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self._call("cuDeviceGetAttribute", attribute, self._device))

        name = self._call("cuDeviceGetName", 256, self._device)
        major, minor = (read(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
        return DeviceProperties(
            name.split(b"\0")[0].decode(),
            f"{major}.{minor}",
            self._call("cuDeviceTotalMem", self._device),
            integrated=bool(read("INTEGRATED")),
            can_map_host_memory=bool(read("CAN_MAP_HOST_MEMORY")),
        )

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a failed call ran out of memory."""
        out_of_memory = self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY
        return isinstance(error, CudaCallError) and error.code == out_of_memory

    def push(self) -> None:
        """Make the context current on this thread."""
        self._call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        """Restore what was current before `push`."""
        self._call("cuCtxPopCurrent")

    def release(self) -> None:
        """Give the primary context back."""
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total bytes of device memory."""
        free, total = self._call("cuMemGetInfo")
        return free, total

    def allocate(self, nbytes: int) -> Any:
        """Allocate device memory."""
        return self._call("cuMemAlloc", nbytes)

    def address(self, allocation: Any) -> int:
        """Return where device memory begins."""
        return int(allocation)

    def free(self, allocation: Any) -> None:
        """Free device memory."""
        self._call("cuMemFree", allocation)

    def allocate_host(self, nbytes: int, *, mapped: bool) -> tuple[Any, NDArray[Any]]:
        """Allocate page-locked host memory; return it, and its bytes as an array."""
        flags = self._cuda.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0
        address = self._call("cuMemHostAlloc", nbytes, flags)
        memory = (ctypes.c_ubyte * nbytes).from_address(address)
        return address, np.ctypeslib.as_array(memory)

    def mapped_address(self, allocation: Any) -> int:
        """Return where mapped host memory begins in the address space of the GPU."""
        return int(self._call("cuMemHostGetDevicePointer", allocation, 0))

    def free_host(self, allocation: Any) -> None:
        """Free page-locked host memory."""
        self._call("cuMemFreeHost", allocation)

    def create_stream(self) -> Any:
        """Create a stream that does not wait for the default stream."""
        return self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)

    def stream_handle(self, stream: Any) -> int:
        """Return the ``CUstream`` as an integer."""
        return int(stream)

    def synchronize_stream(self, stream: Any) -> None:
        """Wait until all work on a stream is done."""
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        self._call("cuStreamDestroy", stream)

    def copy_to_device(self, destination: int, source: NDArray[Any], stream: Any) -> None:
        """Begin to copy a contiguous array to a device address."""
        self._call("cuMemcpyHtoDAsync", destination, source.ctypes.data, source.nbytes, stream)

    def copy_to_host(self, destination: NDArray[Any], source: int, stream: Any) -> None:
        """Begin to copy from a device address into a contiguous array."""
        self._call("cuMemcpyDtoHAsync", destination.ctypes.data, source, destination.nbytes, stream)

    def create_event(self) -> Any:
        """Create an event that takes the time."""
        return self._call("cuEventCreate", 0)

    def record_event(self, event: Any, stream: Any) -> None:
        """Put an event behind the work of a stream."""
        self._call("cuEventRecord", event, stream)

    def synchronize_event(self, event: Any) -> None:
        """Wait until an event has happened."""
        self._call("cuEventSynchronize", event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events that have happened."""
        return float(self._call("cuEventElapsedTime", start, end))

    def destroy_event(self, event: Any) -> None:
        """Destroy an event."""
        self._call("cuEventDestroy", event)

    def begin_capture(self, stream: Any) -> None:
        """Record the work put on a stream from now on instead of doing it."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """Return the recorded work as an executable graph."""
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return self._call(self._instantiate, graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def abandon_capture(self, stream: Any) -> None:
        """End a recording and drop it; a recording that already failed is no error."""
        code, graph = self._cuda.cuStreamEndCapture(stream)
        if code == self._cuda.CUresult.CUDA_SUCCESS:
            self._call("cuGraphDestroy", graph)

    def launch_graph(self, graph: Any, stream: Any) -> None:
        """Begin to run a graph."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Destroy an executable graph."""
        self._call("cuGraphExecDestroy", graph)
