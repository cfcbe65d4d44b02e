"""pycuda: what Jetson code uses; built from source against the CUDA toolkit."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.cuda import libcuda
from resnet_edge.backends.cuda.driver import DeviceProperties, Driver

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PycudaDriver", "load"]

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def load() -> Any:
    """Import pycuda's driver module; unlike ``pycuda.autoinit`` it creates no context.

    Raises:
        ImportError: pycuda is not installed, or there is no NVIDIA driver.
    """
    import pycuda.driver

    return pycuda.driver


class PycudaDriver(Driver):
    """The driver API through pycuda.

    pycuda frees streams and events when the last reference goes.

    Args:
        index: Which GPU.
    """

    def __init__(self, index: int) -> None:
        self._cuda = load()
        self.library = version()
        self.error = self._cuda.Error
        self._cuda.init()
        self._index = index
        device = self._cuda.Device(index)
        attribute = self._cuda.device_attribute
        self.properties = DeviceProperties(
            device.name(),
            "{}.{}".format(*device.compute_capability()),
            device.total_memory(),
            integrated=bool(device.get_attribute(attribute.INTEGRATED)),
            can_map_host_memory=bool(device.get_attribute(attribute.CAN_MAP_HOST_MEMORY)),
        )
        self._thread = threading.get_ident()
        self._context: Any = device.retain_primary_context()

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

        pycuda (2026.1) does so when its last reference goes: on the thread that retained it the
        context then stays current, and on any other thread it is not given back at all. Both
        are put right here.
        """
        self._context = None
        if threading.get_ident() == self._thread:
            _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        else:
            _call("cuDevicePrimaryCtxRelease_v2", ctypes.c_int(self._index))
