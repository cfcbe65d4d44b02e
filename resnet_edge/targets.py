"""Targets: what an engine is built for, one small TOML file per device."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass

from resnet_edge.backends.registry import BACKENDS
from resnet_edge.catalog import list_entries, load_entry
from resnet_edge.errors import ConfigError

__all__ = ["Target", "detect_compute_capability", "list_targets", "load_target", "resolve_target"]

_FOLDER = "engines/targets"


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        name: File name without ``.toml``.
        description: One line for ``resnet-edge targets ls``.
        backend: Who builds and runs for it: ``onnxruntime`` or ``tensorrt_rtx``.
        compute_capability: For example ``8.9``; empty for a CPU.
    """

    name: str
    description: str
    backend: str
    compute_capability: str = ""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(
                f"target {self.name}: unknown backend {self.backend!r}",
                hint=f"use one of {', '.join(BACKENDS)}",
            )
        needs_capability = self.backend == "tensorrt_rtx"
        if needs_capability != bool(re.fullmatch(r"\d+\.\d", self.compute_capability)):
            raise ConfigError(
                f"target {self.name}: compute_capability {self.compute_capability!r} does not fit "
                f"backend {self.backend}"
            )


def load_target(name: str) -> Target:
    """Load a target by name or path.

    Raises:
        ConfigError: It does not exist or breaks the schema.
    """
    return load_entry(Target, _FOLDER, name)


def list_targets() -> tuple[Target, ...]:
    """Load every target that can be found."""
    return list_entries(Target, _FOLDER)


def resolve_target(name: str) -> Target:
    """Load a target; ``auto`` is this machine's GPU, or the CPU where there is none.

    Raises:
        ConfigError: The GPU found has no target.
    """
    if name != "auto":
        return load_target(name)
    capability = detect_compute_capability()
    if capability is None:
        return load_target("cpu")
    for target in list_targets():
        if target.compute_capability == capability:
            return target
    raise ConfigError(
        f"no target for this GPU (compute capability {capability})",
        hint="pass --target cpu, or copy a file of engines/targets and adapt it",
    )


def detect_compute_capability() -> str | None:
    """Ask the NVIDIA driver for the first GPU's compute capability; None without a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75, _MINOR = 76 (cuda.h)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    )
    return None if failed else f"{major.value}.{minor.value}"
