"""Everything about this machine that decides what can be built and run on it, in one record."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_edge.device.driver import Driver, Runtime, query_driver, query_runtime
from resnet_edge.device.installs import (
    Bindings,
    cuda_runtimes,
    find_bindings,
    find_nvcc,
    tensorrt_packages,
)
from resnet_edge.device.jetson import Jetson, detect_jetson
from resnet_edge.device.memory import Memory, read_memory
from resnet_edge.device.packages import Package, probe_packages
from resnet_edge.errors import BackendUnavailableError
from resnet_edge.trtexec.binary import Trtexec, ask_trtexec, locate_trtexec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Machine", "describe"]


@dataclass(frozen=True)
class Machine:
    """A machine as `doctor` sees it.

    Attributes:
        system: For example ``Linux x86_64``.
        python: For example ``3.12.3``.
        in_venv: Whether Python runs in a virtual environment.
        jetson: None if it is none.
        driver: NVIDIA's driver and GPUs.
        runtime: A CUDA runtime library and whether the driver serves it; None without one.
        memory: Main memory and swap.
        disk_free: Bytes that can be written in the working directory.
        packages: Python packages by name.
        bindings: TensorRT's Python packages, visible or not.
        debian: Versions of TensorRT's Debian packages.
        trtexec: None where there is none; why it cannot be used, where it does not work.
        nvcc: CUDA's compiler, None where there is none.
    """

    system: str
    python: str
    in_venv: bool = False
    jetson: Jetson | None = None
    driver: Driver = field(default_factory=Driver)
    runtime: Runtime | None = None
    memory: Memory = field(default_factory=Memory)
    disk_free: int = 0
    packages: Mapping[str, Package] = field(default_factory=dict)
    bindings: tuple[Bindings, ...] = ()
    debian: Mapping[str, str] = field(default_factory=dict)
    trtexec: Trtexec | BackendUnavailableError | None = None
    nvcc: str | None = None

    def usable(self, package: str) -> Package | None:
        """Return a package that can be imported, else None."""
        found = self.packages.get(package)
        return found if found and found.version is not None else None


def describe(root: Path = Path("/")) -> Machine:
    """Look at this machine; never raises.

    Args:
        root: Where the files are that describe the device.
    """
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        in_venv=sys.prefix != sys.base_prefix,
        jetson=detect_jetson(root),
        driver=query_driver(),
        runtime=query_runtime(cuda_runtimes()),
        memory=read_memory(root),
        disk_free=shutil.disk_usage(".").free,
        packages=probe_packages(),
        bindings=find_bindings(root),
        debian=tensorrt_packages(root),
        trtexec=_trtexec(root),
        nvcc=find_nvcc(root),
    )


def _trtexec(root: Path) -> Trtexec | BackendUnavailableError | None:
    path = locate_trtexec(root)
    try:
        return None if path is None else ask_trtexec(path)
    except BackendUnavailableError as error:
        return error
