"""Whether CUDA can be used here at all, asked before a library that would crash is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_edge.device.installs import cuda_runtimes
from resnet_edge.device.nvidia import INSUFFICIENT_DRIVER, query_driver, query_runtime

__all__ = ["CudaStatus", "cuda_status"]

_NO_GPU = (
    "install the NVIDIA driver and check it with nvidia-smi; start a container with --gpus all, "
    "on a Jetson with --runtime nvidia"
)
_OLD_DRIVER = "update the NVIDIA driver, or install packages for the CUDA version that it supports"


@dataclass(frozen=True)
class CudaStatus:
    """What the NVIDIA driver and the CUDA runtime answer.

    Attributes:
        devices: How many GPUs can be used.
        detail: One line for people.
        hint: What fixes it; None where a GPU can be used.
    """

    devices: int
    detail: str
    hint: str | None

    @property
    def usable(self) -> bool:
        """Whether a GPU can be used."""
        return self.devices > 0


def cuda_status() -> CudaStatus:
    """Ask the driver, and the CUDA runtimes if there are any, whether there is a usable GPU.

    TensorRT's ``Runtime`` raises an unrelated error, or crashes later, where there is none.
    """
    driver = query_driver()
    if driver.error:
        return CudaStatus(0, f"no usable GPU: {driver.error}", _NO_GPU)
    runtime = query_runtime(cuda_runtimes())
    if runtime is not None and runtime.error:
        detail = (
            f"CUDA {runtime.cuda} cannot use the GPU: CUDA error {runtime.error}; the driver "
            f"supports CUDA {driver.cuda}"
        )
        return CudaStatus(
            0, detail, _OLD_DRIVER if runtime.error == INSUFFICIENT_DRIVER else _NO_GPU
        )
    count = len(driver.gpus)
    return CudaStatus(count, f"{count} GPU{'s' * (count > 1)}, driver for CUDA {driver.cuda}", None)
