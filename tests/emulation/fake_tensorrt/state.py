"""What the tests set: the machine the fake is on, and the failures it is to have."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["CAPABILITY", "DLA_CORES", "cuda_error", "failures", "say"]

CAPABILITY = "8.7"
DLA_CORES = 0

# parse, build, build out of memory, deserialize, context, shape, infer, address, execute, kernel
failures: set[str] = set()


def cuda_error() -> int:
    """Return CUDA's error code, as TensorRT meets it in its constructors."""
    try:
        runtime = ctypes.CDLL("libcudart.so.13")
    except OSError:
        return 35
    return int(runtime.cudaGetDeviceCount(ctypes.byref(ctypes.c_int())))


def say(logger: Any, severity: str, text: str) -> None:
    """Tell a logger something, as TensorRT does."""
    logger.log(getattr(logger.Severity, severity), text)
