"""Whether CUDA can be used here at all, asked before a library that would crash is loaded."""

from __future__ import annotations

import ctypes
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.cuda import libcuda

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CudaStatus", "cuda_status"]

# Newest first: an old driver refuses the new ones.
_RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
_INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver
_NO_DRIVER = (
    "install the NVIDIA driver; start a container with --gpus all, on a Jetson with "
    "--runtime nvidia"
)
_HINTS = {
    _INSUFFICIENT_DRIVER: "update the NVIDIA driver, or install a TensorRT for the CUDA version "
    "that the driver supports",
    100: f"check nvidia-smi and CUDA_VISIBLE_DEVICES; {_NO_DRIVER}",  # CUDA_ERROR_NO_DEVICE
    803: "driver and kernel module differ: restart the machine",  # SYSTEM_DRIVER_MISMATCH
}


@dataclass(frozen=True)
class CudaStatus:
    """What the NVIDIA driver and the CUDA runtime answer.

    Attributes:
        devices: How many GPUs can be used.
        driver_version: Newest CUDA version that the driver supports, for example ``12.6``; None
            without a driver.
        runtime_version: Version of the CUDA runtime that was asked too; None where none is found.
        error: CUDA's error code, for example 35 where the driver is older than the runtime; None
            where there was none, or no library to ask.
        detail: One line for people.
        hint: What fixes it; None where a GPU can be used.
    """

    devices: int
    driver_version: str | None
    runtime_version: str | None
    error: int | None
    detail: str
    hint: str | None

    @property
    def usable(self) -> bool:
        """Whether a GPU can be used."""
        return self.devices > 0


def cuda_status() -> CudaStatus:
    """Ask the driver, and the CUDA runtime if there is one, how many GPUs they see.

    Where several runtimes are installed, one that works is enough. TensorRT's ``Runtime`` raises
    an unrelated error, or crashes later, where none does.
    """
    try:
        driver = libcuda.load()
    except OSError as error:
        return CudaStatus(0, None, None, None, f"there is no NVIDIA driver: {error}", _NO_DRIVER)
    code, devices = _ask_driver(driver)
    version = _number(driver.cuDriverGetVersion)
    if code or not devices:
        text = f"CUDA finds no usable GPU: {_driver_error(driver, code)}"
        return CudaStatus(0, version, None, code or None, text, _HINTS.get(code, _NO_DRIVER))
    failure = None
    for runtime in _runtimes():
        count = ctypes.c_int()
        code = runtime.cudaGetDeviceCount(ctypes.byref(count))
        newest = _number(runtime.cudaRuntimeGetVersion)
        if not code and count.value:
            return _usable(count.value, version, newest)
        text = f"CUDA runtime {newest} finds no usable GPU: {_runtime_error(runtime, code)}"
        if code == _INSUFFICIENT_DRIVER:
            text += f"; the driver supports CUDA {version}"
        hint = _HINTS.get(code, _NO_DRIVER)
        failure = failure or CudaStatus(0, version, newest, code or None, text, hint)
    return failure or _usable(devices, version, None)


def _usable(devices: int, driver: str | None, runtime: str | None) -> CudaStatus:
    detail = f"{devices} GPU{'s' if devices > 1 else ''}, driver for CUDA {driver}"
    return CudaStatus(devices, driver, runtime, None, detail, None)


def _ask_driver(driver: ctypes.CDLL) -> tuple[int, int]:
    """Return CUDA's error code and the number of GPUs."""
    count = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return code, count.value


def _number(ask: Any) -> str | None:
    """Return a version that CUDA gives as ``1000 * major + 10 * minor``."""
    value = ctypes.c_int()
    if ask(ctypes.byref(value)) or not value.value:
        return None
    return f"{value.value // 1000}.{value.value % 1000 // 10}"


def _driver_error(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return f"CUDA error {code} ({(name.value or b'unknown').decode()})"


def _runtime_error(runtime: ctypes.CDLL, code: int) -> str:
    runtime.cudaGetErrorName.restype = ctypes.c_char_p
    name = runtime.cudaGetErrorName(code) or b"unknown"
    return f"CUDA error {code} ({name.decode()})"


def _runtimes() -> Iterator[ctypes.CDLL]:
    """Load the CUDA runtimes that the loader, NVIDIA's wheels and the toolkit offer."""
    spec = importlib.util.find_spec("nvidia")
    wheels = spec.submodule_search_locations if spec else None
    folders = [Path(folder) for folder in wheels or ()]
    for name in _RUNTIMES:
        found = [str(path) for folder in folders for path in folder.glob(f"*/lib/{name}")]
        for candidate in (name, *found, f"/usr/local/cuda/lib64/{name}"):
            with suppress(OSError):
                yield ctypes.CDLL(candidate)
