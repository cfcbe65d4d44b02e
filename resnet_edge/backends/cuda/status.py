"""Whether CUDA can be used here at all, asked before a library that would crash is loaded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CudaStatus", "cuda_status"]


@dataclass(frozen=True)
class CudaStatus:
    """What the NVIDIA driver and the CUDA runtime answer.

    Attributes:
        usable: Whether a GPU can be used.
        devices: How many GPUs there are.
        driver_version: Newest CUDA version that the driver supports, for example ``12.6``; None
            without a driver.
        runtime_version: Version of the CUDA runtime library that was asked, None if none is found.
        error: CUDA's error code, for example 35 where the driver is older than the runtime; None
            where there was none, or no library to ask.
        detail: One line for people.
        hint: What fixes it, None where nothing is broken.
    """

    usable: bool
    devices: int
    driver_version: str | None
    runtime_version: str | None
    error: int | None
    detail: str
    hint: str | None


def cuda_status() -> CudaStatus:
    """Ask the driver, then the CUDA runtime if there is one, how many GPUs they see.

    TensorRT's ``Runtime`` raises an unrelated error or crashes where this fails.
    """
    raise NotImplementedError
