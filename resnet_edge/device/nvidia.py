"""The NVIDIA driver and its GPUs, asked through ``ctypes``: no Python package is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Gpu", "NvidiaDriver", "Runtime", "query_driver", "query_runtime"]

INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver: absent, or older than the CUDA runtime
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute in cuda.h
_ERRORS = {
    3: "not initialized",
    100: "no GPU is visible",
    101: "invalid device",
    801: "not supported",
    802: "system not ready",
    803: "the driver in the kernel and the library libcuda.so differ in version",
    804: "this GPU does not support forward compatibility",
    999: "unknown error",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: As the driver spells it, for example ``NVIDIA GeForce RTX 4090``.
        compute_capability: For example ``8.9``.
        memory_bytes: Total memory; shared with the CPU on a Jetson.
        integrated: Whether it is part of a system on a chip.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool = False


@dataclass(frozen=True)
class NvidiaDriver:
    """The NVIDIA driver.

    Attributes:
        cuda: Newest CUDA version it supports, for example ``12.6``; None without a driver.
        gpus: What it can see.
        error: Why there is none, one line; empty if there is.
    """

    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Runtime:
    """A CUDA runtime library, and whether the driver serves it.

    Attributes:
        library: Name or path.
        cuda: Its version, for example ``13.0``.
        error: Code of ``cudaGetDeviceCount``; 0 if it works, 35 if the driver is too old or absent.
    """

    library: str
    cuda: str
    error: int


def query_driver(library: str = "libcuda.so.1") -> NvidiaDriver:
    """Ask the driver for its version and its GPUs; never raises."""
    try:
        cuda = ctypes.CDLL(library)
        version, count = ctypes.c_int(), ctypes.c_int()
        if cuda.cuDriverGetVersion(ctypes.byref(version)):
            return NvidiaDriver(error=f"{library} does not answer")
        supported = _version(version.value)
        failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
        if failed:
            reason = _ERRORS.get(failed, "see cuda.h")
            return NvidiaDriver(supported, error=f"CUDA driver error {failed}: {reason}")
        gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    except OSError:
        return NvidiaDriver(error=f"no NVIDIA driver ({library} is not there)")
    except AttributeError as error:
        return NvidiaDriver(error=f"{library} is no CUDA driver: {error}")
    return NvidiaDriver(supported, gpus, "" if gpus else "no GPU is visible")


def query_runtime(libraries: Iterable[str]) -> Runtime | None:
    """Call ``cudaGetDeviceCount`` of every library that can be loaded; never raises.

    TensorRT's own objects crash instead of saying that there is no usable driver, so this is asked
    before any of them is made. Where several runtimes are installed, one that works is enough.

    Returns:
        The first runtime that works, else the first one; None if there is none.
    """
    failed = None
    for library in libraries:
        try:
            runtime = ctypes.CDLL(library)
            version, count = ctypes.c_int(), ctypes.c_int()
            if runtime.cudaRuntimeGetVersion(ctypes.byref(version)):
                continue
            error = int(runtime.cudaGetDeviceCount(ctypes.byref(count)))
        except (OSError, AttributeError):
            continue
        found = Runtime(library, _version(version.value), error)
        if not error:
            return found
        failed = failed or found
    return failed


def _gpu(cuda: Any, index: int) -> Gpu:
    device, name, total = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    major, minor, integrated = (
        _attribute(cuda, code, device) for code in (_MAJOR, _MINOR, _INTEGRATED)
    )
    text = name.value.decode(errors="replace")
    return Gpu(text, f"{major}.{minor}", total.value, bool(integrated))


def _attribute(cuda: Any, code: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), code, device)
    return value.value


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
