"""Whether an engine fits this machine, told from its sidecar before any native code reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_edge.device.versions import parts

if TYPE_CHECKING:
    from resnet_edge.device.driver import Gpu
    from resnet_edge.sidecar import Sidecar

__all__ = ["mismatch"]

_AMPERE = (8, 0)


def mismatch(sidecar: Sidecar, version: str, gpu: Gpu) -> str | None:
    """Return why an engine cannot run with this TensorRT on this GPU; None if it can.

    Args:
        sidecar: Of the engine.
        version: Of the library that is to load it.
        gpu: Of this machine.
    """
    settings = sidecar.settings
    built_with, here = sidecar.runtime_version, version
    newer = parts(here) >= parts(built_with)
    if built_with != here and not (settings.get("version_compatible") and newer):
        return f"it was built with {sidecar.backend} {built_with}, this machine has {here}"
    capable = parts(gpu.compute_capability) >= _AMPERE
    fits = gpu.compute_capability in sidecar.compute_capabilities
    if not fits and not (settings.get("hardware_compatible") and capable):
        made_for = ", ".join(sidecar.compute_capabilities) or "no GPU"
        return (
            f"it was built for compute capability {made_for}, this GPU ({gpu.name}) has "
            f"{gpu.compute_capability}"
        )
    return None
