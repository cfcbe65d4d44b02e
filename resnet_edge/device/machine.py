"""What this machine is: everything that decides what can be built, and how fast it runs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_edge.device.installs import (
    Bindings,
    cuda_runtimes,
    find_bindings,
    find_nvcc,
    tensorrt_packages,
)
from resnet_edge.device.jetson import Jetson, detect_jetson
from resnet_edge.device.memory import Memory, read_memory
from resnet_edge.device.nvidia import NvidiaDriver, Runtime, query_driver, query_runtime
from resnet_edge.device.packages import Package, probe_packages

__all__ = ["Machine", "describe", "describe_machine"]


@dataclass(frozen=True)
class Machine:
    """What decides what can be built and run here.

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
        nvcc: CUDA's compiler, None where there is none.
    """

    system: str
    python: str
    in_venv: bool = False
    jetson: Jetson | None = None
    driver: NvidiaDriver = field(default_factory=NvidiaDriver)
    runtime: Runtime | None = None
    memory: Memory = field(default_factory=Memory)
    disk_free: int = 0
    packages: Mapping[str, Package] = field(default_factory=dict)
    bindings: tuple[Bindings, ...] = ()
    debian: Mapping[str, str] = field(default_factory=dict)
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
        nvcc=find_nvcc(root),
    )


def describe_machine() -> dict[str, Any]:
    """Return processors, clocks, load, operating system and date, as plain JSON values."""
    jetson = detect_jetson()
    return {
        "gpus": [gpu.name for gpu in query_driver().gpus],
        "jetson": None if jetson is None else _board(jetson),
        "cpu": _cpu_model(),
        "logical_cpus": os.cpu_count(),
        "usable_cpus": _usable_cpus(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _board(jetson: Jetson) -> dict[str, Any]:
    mode, clock = jetson.power_mode, jetson.clock
    return {
        "model": jetson.model,
        "jetpack": jetson.jetpack,
        "power_mode": None if mode is None else mode.name,
        "clocks_locked": None if clock is None else clock.locked,
    }


def _usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
