"""What a backend is asked to build, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from numpy.typing import NDArray

from resnet_edge.bundle.names import GraphKind
from resnet_edge.catalog.targets import Target
from resnet_edge.errors import BuildError, ConfigError

__all__ = ["BuildConfig", "Calibration", "Calibrator", "EngineArtifact", "Precision"]

Precision = Literal["fp32", "fp16", "int8"]
Calibrator = Literal["ranges", "entropy", "minmax"]


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Every backend honours the first three; of the others those it names in `Backend.options`.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        rest: For ``int8``: type of everything that is not quantized, ``fp16`` or ``fp32``.
        profile: Smallest, optimal and largest batch of the optimization profile.
        strongly_typed: Let the graph alone decide every layer's type, also where the builder could
            choose.
        implicit: INT8 without Q/DQ pairs: from the bundle's ranges, or by TensorRT's own
            calibration on images.
        dla: DLA core that runs what it can; the GPU runs the rest.
        compute_capabilities: GPUs to build for ahead of time; empty for the target's.
        workspace: MiB of scratch memory for a layer; None for what the target allows.
        optimization_level: 0 builds fastest, 5 searches longest; None for the builder's default.
        builds: How often to build; the fastest engine is kept.
        version_compatible: Runs with later TensorRT versions too.
        hardware_compatible: Runs on every GPU from Ampere on.
        sparsity: Use 2:4 sparse kernels where the weights allow.
        timing_cache: Remember kernel timings for later builds on this device.
        reduce_range: For the CPU twin: 7-bit weights, for an x86 without VNNI; default as this
            machine needs it.
    """

    precision: Precision
    rest: Literal["fp16", "fp32"] = "fp16"
    profile: tuple[int, int, int] = (1, 8, 32)
    strongly_typed: bool = False
    implicit: Calibrator | None = None
    dla: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    optimization_level: int | None = None
    builds: int = 1
    version_compatible: bool = False
    hardware_compatible: bool = False
    sparsity: bool = False
    timing_cache: bool = True
    reduce_range: bool | None = None

    def __post_init__(self) -> None:
        low, best, high = self.profile
        if not 1 <= low <= best <= high:
            raise ConfigError(
                f"profile {low},{best},{high} makes no sense",
                hint="give smallest,optimal,largest batch, for example --profile 1,8,32",
            )
        if self.implicit is not None and self.precision != "int8":
            raise ConfigError("implicit quantization means INT8", hint="add --int8")
        if self.implicit is not None and self.strongly_typed:
            raise ConfigError(
                "--implicit leaves the types to the builder, --strongly-typed forbids that",
                hint="leave out one of them",
            )
        if self.workspace is not None and self.workspace < 1:
            raise ConfigError(f"--workspace {self.workspace}: must be at least 1 MiB")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"--optimization-level {self.optimization_level}: must be 0 to 5")
        if self.builds < 1:
            raise ConfigError(f"--builds {self.builds}: must be at least 1")

    def graph(self, *, strongly_typed: bool) -> GraphKind:
        """Return the graph that TensorRT builds this from.

        Args:
            strongly_typed: The graph alone decides every layer's type. Otherwise the builder has
                precision flags, and takes the float graph, or Q/DQ pairs around FP32.
        """
        if not strongly_typed:
            return "int8" if self.precision == "int8" and self.implicit is None else "fp32"
        if self.precision != "int8":
            return self.precision
        return "int8-fp16" if self.rest == "fp16" else "int8"

    def workspace_bytes(self, target: Target) -> int | None:
        """Return what the builder may use: as asked, else as the target allows; None is its own."""
        return target.workspace_bytes if self.workspace is None else self.workspace << 20

    def check_batch(self, fixed: int | None) -> None:
        """Refuse a profile that a graph of fixed batch cannot have.

        Raises:
            BuildError: It has another batch than the graph.
        """
        if fixed is not None and self.profile != (fixed,) * 3:
            raise BuildError(
                f"the model has a fixed batch of {fixed}", hint=f"pass --profile {fixed}"
            )

    def refuse_implicit(self, version: str) -> None:
        """Say that this version has no calibrator.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"TensorRT {version} has no implicit quantization any more",
            hint="leave out --implicit: the graph gets Q/DQ pairs",
        )

    def check_dla(self) -> None:
        """Refuse what no DLA takes its ranges from: Q/DQ pairs, and the min-max calibrator.

        Raises:
            ConfigError: INT8 is asked for on the DLA in such a way.
        """
        if self.dla is not None and self.precision == "int8" and self.implicit is None:
            raise ConfigError(
                "the DLA takes INT8 ranges from a calibration, not from Q/DQ pairs",
                hint="add --implicit, or use --fp16",
            )
        if self.dla is not None and self.implicit == "minmax":
            raise ConfigError(
                "TensorRT calibrates for the DLA with its entropy calibrator only",
                hint="use --calibrator entropy, or --calibrator ranges",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The options that differ from their default, as JSON; the first three left out."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)[3:]}
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in chosen.items()
            if value != defaults[name]
        }


@dataclass(frozen=True)
class Calibration:
    """What implicit INT8 quantization takes its ranges from.

    Attributes:
        cache: TensorRT calibration cache with the bundle's ranges; None if TensorRT is to find
            ranges of its own on ``batches``.
        batches: Yields float32 N x C x H x W network inputs, all of the same N.
        keep_float: Names of the layers that are not quantized.
    """

    cache: bytes | None = None
    batches: Callable[[], Iterator[NDArray[Any]]] | None = None
    keep_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineArtifact:
    """What a backend built.

    Attributes:
        data: The engine, byte for byte what the builder returned.
        warnings: What the builder warned about, each text once.
        notes: What the user should know about this engine: how its types were decided, what runs
            where, what is experimental.
        compute_capabilities: GPUs it was built for; empty for a CPU.
        device: Name of the GPU it was built on; empty if built ahead of time.
        layers: The engine's layers as the runtime describes them (JSON); None where it cannot be
            loaded.
    """

    data: bytes
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    device: str = ""
    layers: str | None = None
