"""NVIDIA's driver library itself, for the few calls that have no other way."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["load"]


@cache
def load() -> ctypes.CDLL:
    """Load the driver library.

    Raises:
        OSError: There is no NVIDIA driver.
    """
    return ctypes.CDLL("libcuda.so.1")
