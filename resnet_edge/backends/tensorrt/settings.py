"""A build request turned into what TensorRT's builder is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from resnet_edge.backends.config import BuildConfig, Calibration
from resnet_edge.backends.tensorrt.dla import place_on_dla
from resnet_edge.backends.tensorrt.features import TrtFeatures
from resnet_edge.backends.tensorrt.timing_cache import TimingCache
from resnet_edge.errors import BuildError, ConfigError

if TYPE_CHECKING:
    import tensorrt

__all__ = ["PlanRequest", "configure"]


@dataclass(frozen=True)
class PlanRequest:
    """What `build_plan` needs to know.

    Attributes:
        config: Precision, profile and options.
        workspace: Bytes of scratch memory; None leaves it to the builder.
        compute_capabilities: To build for ahead of time; empty for the GPU that is here.
        calibration: Given if ``config.implicit``.
        timing_cache: Where kernel timings are kept; None for nowhere.
        label: Name of the task that shows the progress.
    """

    config: BuildConfig
    workspace: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    calibration: Calibration | None = None
    timing_cache: TimingCache | None = None
    label: str = "build"


def configure(
    trt: ModuleType,
    features: TrtFeatures,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    builder_config: tensorrt.IBuilderConfig,
    request: PlanRequest,
) -> tuple[str, ...]:
    """Set everything the request asks for; return what the user should know."""
    config = request.config
    builder_config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    builder_config.clear_flag(trt.BuilderFlag.TF32)  # FP32 means FP32: docs/decisions
    if request.workspace is not None:
        builder_config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace)
    if config.optimization_level is not None:
        builder_config.builder_optimization_level = config.optimization_level
    if config.version_compatible:
        builder_config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if features.hardware_compatibility and config.hardware_compatible:
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        builder_config.hardware_compatibility_level = level
    if config.sparsity:
        builder_config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if features.profile_sharing:  # without it every thread would need a profile of its own
        feature = trt.PreviewFeature.PROFILE_SHARING_0806
        if not builder_config.get_preview_feature(feature):
            builder_config.set_preview_feature(feature, True)
    if features.ahead_of_time:
        _set_capabilities(trt, builder_config, request.compute_capabilities)
    if features.timing_cache and request.timing_cache is not None:
        request.timing_cache.attach(builder_config)
    notes = [_set_precision(trt, features, network, builder_config, request)]
    _set_profile(features, builder, network, builder_config, request)
    if features.dla and config.dla is not None:
        notes.append(place_on_dla(trt, builder, network, builder_config, config.dla))
    return tuple(notes)


def _set_precision(
    trt: ModuleType,
    features: TrtFeatures,
    network: tensorrt.INetworkDefinition,
    builder_config: tensorrt.IBuilderConfig,
    request: PlanRequest,
) -> str:
    config = request.config
    if features.strongly_typed(asked=config.strongly_typed):
        return "strongly typed: the graph decides every layer's type"
    if features.weak:
        if "fp16" in (config.precision, config.rest if config.precision == "int8" else ""):
            builder_config.set_flag(trt.BuilderFlag.FP16)
        if config.precision == "int8":
            builder_config.set_flag(trt.BuilderFlag.INT8)
        if config.implicit is not None and request.calibration is not None:
            _keep_in_float(trt, network, builder_config, request.calibration.keep_float, config)
            return f"weakly typed, implicit INT8 ({config.implicit}): the builder decides"
    return "weakly typed: the builder may use any type up to the precision asked for"


def _keep_in_float(
    trt: ModuleType,
    network: tensorrt.INetworkDefinition,
    builder_config: tensorrt.IBuilderConfig,
    names: Sequence[str],
    config: BuildConfig,
) -> None:
    """Ask for layers not to be quantized, where nothing in the graph says so."""
    if not names:
        return
    dtype = trt.DataType.HALF if config.rest == "fp16" else trt.DataType.FLOAT
    builder_config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer: tensorrt.ILayer = network.get_layer(index)
        if layer.name in names:
            layer.precision = dtype


def _set_profile(
    features: TrtFeatures,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    builder_config: tensorrt.IBuilderConfig,
    request: PlanRequest,
) -> None:
    tensor: tensorrt.ITensor = network.get_input(0)
    shape, batches = tuple(tensor.shape), request.config.profile
    if shape[0] != -1:
        request.config.check_batch(shape[0])
        return
    profile: tensorrt.IOptimizationProfile = builder.create_optimization_profile()
    low, best, high = ((batch, *shape[1:]) for batch in batches)
    profile.set_shape(tensor.name, low, best, high)
    if builder_config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"TensorRT refused the profile {batches}", hint="need smallest <= optimal <= largest"
        )
    if features.calibrators and request.config.implicit is not None:
        builder_config.set_calibration_profile(profile)


def _set_capabilities(
    trt: ModuleType, builder_config: tensorrt.IBuilderConfig, capabilities: Sequence[str]
) -> None:
    names = ["SM" + capability.replace(".", "") for capability in capabilities]
    known = sorted(name for name in dir(trt.ComputeCapability) if name.startswith("SM"))
    for name, capability in zip(names, capabilities, strict=True):
        if name not in known:
            raise ConfigError(
                f"{trt.__name__} {trt.__version__} does not support compute capability "
                f"{capability}",
                hint=f"it supports {', '.join(known)}",
            )
    builder_config.num_compute_capabilities = len(names)
    for position, name in enumerate(names):
        builder_config.set_compute_capability(getattr(trt.ComputeCapability, name), position)
