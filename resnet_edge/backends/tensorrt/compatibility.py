"""Whether an engine fits this machine, told from its sidecar before any native code reads it."""

from __future__ import annotations

import platform

from resnet_edge.backends.config import BuildConfig
from resnet_edge.bundle.sidecar import Sidecar
from resnet_edge.catalog.targets import Target
from resnet_edge.device.nvidia import Gpu
from resnet_edge.device.versions import parts
from resnet_edge.errors import ConfigError

__all__ = ["check_device", "mismatch"]

_AMPERE = (8, 0)


def mismatch(sidecar: Sidecar, version: str, gpu: Gpu | None) -> str | None:
    """Return why an engine cannot run with this TensorRT on this GPU; None if it can.

    Args:
        sidecar: Of the engine.
        version: Of the library that is to load it.
        gpu: Of this machine; None where it is not known, which is no reason by itself.
    """
    settings = sidecar.settings
    system = f"{platform.system()} {platform.machine()}"
    if sidecar.system != system and sidecar.backend != "tensorrt_rtx":  # RTX: any system's engine
        return f"it was built on {sidecar.system}, this is {system}"
    built_with, here = sidecar.runtime_version, version
    reaches = settings.get("version_compatible") and _reaches(parts(built_with), parts(here))
    if built_with != here and not reaches:
        return f"it was built with {sidecar.backend} {built_with}, this machine has {here}"
    if gpu is None:
        return None
    capable = parts(gpu.compute_capability) >= _AMPERE
    fits = gpu.compute_capability in sidecar.compute_capabilities
    if not fits and not (settings.get("hardware_compatible") and capable):
        made_for = ", ".join(sidecar.compute_capabilities) or "no GPU"
        return (
            f"it was built for compute capability {made_for}, this GPU ({gpu.name}) has "
            f"{gpu.compute_capability}"
        )
    return None


def _reaches(built_with: tuple[int, ...], here: tuple[int, ...]) -> bool:
    """Whether a version-compatible engine can run: 8 with 8 and 10, 10 with 10 and 11."""
    return here >= built_with and not (built_with < (9,) and here >= (11,))


def check_device(target: Target, config: BuildConfig, gpu: Gpu) -> None:
    """Refuse to build for another GPU than the one that is here.

    Raises:
        ConfigError: TensorRT would build for this one.
    """
    if gpu.compute_capability == target.compute_capability:
        return
    older = min(parts(gpu.compute_capability), parts(target.compute_capability))
    if config.hardware_compatible and older >= _AMPERE:
        return
    raise ConfigError(
        f"TensorRT builds for the GPU it runs on: {target.name} has compute capability "
        f"{target.compute_capability}, this {gpu.name} has {gpu.compute_capability}",
        hint="build on the device itself, or pass --target auto",
    )
