"""Targets: what an engine is built for, one small TOML file per device."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from resnet_edge.catalog.entries import list_entries, load_entry
from resnet_edge.device.jetson import PowerMode
from resnet_edge.device.versions import parts, within
from resnet_edge.errors import ConfigError

__all__ = [
    "FOLDER",
    "PowerMode",
    "Software",
    "SuperModes",
    "Target",
    "dla_hint",
    "list_targets",
    "load_target",
]

FOLDER = "engines/targets"
_GIB = 1 << 30


@dataclass(frozen=True)
class Software:
    """A range of releases that go together on a device.

    Attributes:
        tensorrt: Oldest and newest TensorRT; ``11`` takes in every 11.x.
        opset_max: Newest ONNX opset that all of them parse; None if not stated.
        jetpack: Oldest and newest JetPack; None where there is none.
        dla: Whether these versions of TensorRT can use the DLA.
    """

    tensorrt: tuple[str, str]
    opset_max: int | None = None
    jetpack: tuple[str, str] | None = None
    dla: bool = False

    def __post_init__(self) -> None:
        for name, limits in (("tensorrt", self.tensorrt), ("jetpack", self.jetpack)):
            if limits and not (all(map(parts, limits)) and within(limits[0], "0", limits[1])):
                raise ConfigError(f"{name} {limits[0]!r} to {limits[1]!r} is no range of versions")
        if self.opset_max is not None and self.opset_max < 13:
            raise ConfigError(f"opset_max {self.opset_max}: Q/DQ per channel needs 13 or newer")


@dataclass(frozen=True)
class SuperModes:
    """What a Jetson gains by the "Super" power modes of a newer JetPack.

    Attributes:
        jetpack: The first one that has them.
        bandwidth_gb_s: As in `Target`.
        int8_tops: As in `Target`.
        fp16_tflops: As in `Target`.
        power_modes: Replace those of the target.
    """

    jetpack: str
    bandwidth_gb_s: float
    int8_tops: float
    fp16_tflops: float
    power_modes: tuple[PowerMode, ...] = ()


@dataclass(frozen=True)
class Target:
    """A device.

    Peaks are dense and those of the GPU alone; None where nobody has published one.

    Attributes:
        name: File name without ``.toml``.
        description: One line for ``resnet-edge targets``.
        backend: Who builds and runs for it.
        compute_capability: For example ``8.9``; empty for a CPU.
        dla_cores: Deep learning accelerators beside the GPU.
        memory_gb: Of the GPU; of the whole module where it is shared.
        bandwidth_gb_s: Of that memory.
        int8_tops: Peak INT8 operations per second, in 10^12.
        fp16_tflops: Peak FP16 operations per second, in 10^12.
        workspace_mb: What the builder may use; None for a quarter of the memory, at most 8 GiB.
        soc: Of a Jetson, for example ``tegra234``.
        modules: Part numbers of a Jetson module, or their beginnings.
        gpus: Names that the driver gives this GPU, whole: a laptop's begins like a desktop's.
        software: Releases that run on it; empty if not stated.
        power_modes: Of ``nvpmodel``, as shipped; the device's own list wins.
        super_modes: Of the modules that have them.
    """

    name: str
    description: str
    backend: Literal["tensorrt", "tensorrt_rtx", "trtexec", "onnxruntime"]
    compute_capability: str = ""
    dla_cores: int = 0
    memory_gb: int | None = None
    bandwidth_gb_s: float | None = None
    int8_tops: float | None = None
    fp16_tflops: float | None = None
    workspace_mb: int | None = None
    soc: str = ""
    modules: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    software: tuple[Software, ...] = ()
    power_modes: tuple[PowerMode, ...] = ()
    super_modes: SuperModes | None = None

    def __post_init__(self) -> None:
        on_cpu = self.backend == "onnxruntime"
        if on_cpu == bool(re.fullmatch(r"\d{1,2}\.\d", self.compute_capability)) or (
            on_cpu and self.compute_capability
        ):
            raise ConfigError(
                f"compute_capability {self.compute_capability!r} does not fit backend "
                f"{self.backend}",
                hint='write for example "8.9", and nothing for onnxruntime',
            )
        for name in ("memory_gb", "bandwidth_gb_s", "int8_tops", "fp16_tflops", "workspace_mb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} {value} must be positive; leave it out if unknown")
        if not 0 <= self.dla_cores <= 2 or (self.dla_cores and not self.soc):
            raise ConfigError(f"dla_cores {self.dla_cores}: only a Jetson has them, at most two")
        if any(range_.dla for range_ in self.software) and not self.dla_cores:
            raise ConfigError("software: dla needs dla_cores")
        if bool(self.soc) != bool(self.modules) or (self.soc and self.gpus):
            raise ConfigError("soc and modules belong together, and exclude gpus")
        if not self.soc and (self.power_modes or self.super_modes):
            raise ConfigError("power_modes and super_modes belong to a Jetson; it needs a soc")
        numbers = [mode.id for mode in self.power_modes]
        if len(set(numbers)) < len(numbers):
            raise ConfigError("power_modes: an id stands there twice")

    @property
    def workspace_bytes(self) -> int | None:
        """Memory that the builder may use; None leaves it to the builder."""
        if self.workspace_mb is not None:
            return self.workspace_mb << 20
        return None if self.memory_gb is None else min(self.memory_gb * _GIB // 4, 8 * _GIB)

    def opset_max(self, tensorrt: str) -> int | None:
        """Return the newest ONNX opset that a TensorRT for this device parses, None if unknown."""
        stated = [range_.opset_max for range_ in self.software_of(tensorrt=tensorrt)]
        return min((opset for opset in stated if opset is not None), default=None)

    def software_of(
        self, *, tensorrt: str | None = None, jetpack: str | None = None
    ) -> tuple[Software, ...]:
        """Return the ranges that a TensorRT and a JetPack fall into; None fits every range."""
        return tuple(
            range_
            for range_ in self.software
            if (tensorrt is None or within(tensorrt, *range_.tensorrt))
            and (jetpack is None or (range_.jetpack and within(jetpack, *range_.jetpack)))
        )


def load_target(name: str) -> Target:
    """Load a target by name or path.

    Raises:
        ConfigError: It does not exist or breaks the schema.
    """
    return load_entry(Target, FOLDER, name)


def list_targets() -> tuple[Target, ...]:
    """Load every target that can be found."""
    return list_entries(Target, FOLDER)


def dla_hint(cores: int) -> str:
    """Return what to do where a DLA core is asked for that is not there."""
    if not cores:
        return "leave out --dla: the GPU runs the whole network"
    return "pass --dla " + " or ".join(map(str, range(cores)))
