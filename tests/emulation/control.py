"""What a test can see of the emulated device, and the failures it can make it have.

Only for processes that ``run_on_device`` starts.
"""

from __future__ import annotations

import ctypes

__all__ = [
    "ILLEGAL_ADDRESS",
    "INVALID_VALUE",
    "LAUNCH_FAILED",
    "OUT_OF_MEMORY",
    "abandoned",
    "break_device",
    "called",
    "depth",
    "fail",
    "is_device_memory",
    "live",
    "live_bytes",
    "retained",
]

_LIBRARY = ctypes.CDLL("libcuda.so.1")
_LIBRARY.emulated_live.restype = ctypes.c_long
_LIBRARY.emulated_live_bytes.restype = ctypes.c_long
_LIBRARY.emulated_abandoned.restype = ctypes.c_long
_KINDS = ("device memory", "host memory", "streams", "events", "graphs", "executable graphs")

OUT_OF_MEMORY = 2
INVALID_VALUE = 1
ILLEGAL_ADDRESS = 700
LAUNCH_FAILED = 719


def live() -> dict[str, int]:
    """Return how many of each kind of thing are alive; kinds without any are left out."""
    counts = {name: _LIBRARY.emulated_live(kind) for kind, name in enumerate(_KINDS)}
    return {name: count for name, count in counts.items() if count}


def live_bytes() -> int:
    """Return how many bytes of device and host memory are allocated."""
    return int(_LIBRARY.emulated_live_bytes())


def abandoned() -> int:
    """Return how many things were still alive when their context went."""
    return int(_LIBRARY.emulated_abandoned())


def retained(device: int = 0) -> int:
    """Return how many references keep the primary context."""
    return int(_LIBRARY.emulated_retained(device))


def depth() -> int:
    """Return how many contexts are on this thread's stack."""
    return int(_LIBRARY.emulated_depth())


def fail(function: str, code: int, *, call: int = 1, times: int = 1) -> None:
    """Make calls of a function of the driver fail, from its ``call``-th from now on."""
    assert not _LIBRARY.emulated_fail(function.encode(), call, times, code)


def break_device(code: int = LAUNCH_FAILED, device: int = 0) -> None:
    """Make a kernel fail: all further calls return ``code``, as after a real one."""
    _LIBRARY.emulated_break(device, code)


def called() -> list[str]:
    """Return the functions called since the last time, in order."""
    buffer = ctypes.create_string_buffer(1 << 16)
    _LIBRARY.emulated_take_trace(buffer, ctypes.c_size_t(len(buffer)))
    return buffer.value.decode().split()


def is_device_memory(address: int, nbytes: int) -> bool:
    """Whether a kernel may work on these bytes."""
    return bool(
        _LIBRARY.emulated_is_device_memory(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))
    )
