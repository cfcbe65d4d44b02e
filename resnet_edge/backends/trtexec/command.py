"""Requests as trtexec options, as each version writes them.

Which options there are is decided by name, from the executable's own help, or from
`resnet_edge.backends.trtexec.known_options` where there is none to ask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.trtexec.layer_precisions import format_layer_precisions
from resnet_edge.bundle.names import GraphKind
from resnet_edge.catalog.targets import Target
from resnet_edge.errors import ConfigError, GraphError
from resnet_edge.tensors import TensorSpec

__all__ = [
    "Build",
    "build_arguments",
    "build_request",
    "check_options",
    "graph_for",
    "shapes_option",
    "with_calibration",
    "writable",
]

_WORKSPACE_MIB = 1024  # where trtexec's own default is useless: 8.2 takes 16 MiB

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Build:
    """What is to be built, and the files that go in and come out.

    Attributes:
        onnx: The graph.
        engine: Where the engine goes.
        config: What kind of engine.
        shapes: Smallest, optimal and largest shape of every input with a dynamic batch.
        workspace_mib: Memory the builder may use for a layer; None for its own default.
        calibration: TensorRT calibration cache, for implicit INT8; else empty.
        layer_precisions: Value of ``--layerPrecisions``; empty for none.
        timing_cache: Is read and written; empty for none.
        layers: Where the description of the layers goes; empty for nowhere.
    """

    onnx: str
    engine: str
    config: BuildConfig
    shapes: Mapping[str, tuple[_Shape, _Shape, _Shape]]
    workspace_mib: int | None = None
    calibration: str = ""
    layer_precisions: str = ""
    timing_cache: str = ""
    layers: str = ""


def build_request(
    onnx: str, engine: str, inputs: Sequence[TensorSpec], target: Target, config: BuildConfig
) -> Build:
    """Return what to build for a target, but for the files that only a real build has.

    Args:
        onnx: The graph.
        engine: Where the engine goes.
        inputs: Of the graph.
        target: The device.
        config: What kind of engine.

    Raises:
        BuildError: The profile does not fit a graph of fixed batch.
    """
    fixed = inputs[0].shape[0]
    config.check_batch(fixed)
    low, best, high = (
        {i.name: tuple(batch if n is None else n for n in i.shape) for i in inputs}
        for batch in config.profile
    )
    workspace = config.workspace_bytes(target)
    return Build(
        onnx=onnx,
        engine=engine,
        config=config,
        shapes={} if fixed else {name: (low[name], best[name], high[name]) for name in low},
        workspace_mib=None if workspace is None else workspace >> 20,
    )


def check_options(config: BuildConfig, flags: Collection[str], version: str) -> None:
    """Refuse what this version of trtexec has no option for.

    Raises:
        ConfigError: It has none.
    """
    wanted = (
        ("--strongly-typed", config.strongly_typed, "--stronglyTyped"),
        ("--optimization-level", config.optimization_level is not None,
         "--builderOptimizationLevel"),
        ("--version-compatible", config.version_compatible, "--versionCompatible"),
        ("--hardware-compatible", config.hardware_compatible, "--hardwareCompatibilityLevel"),
        ("--implicit", config.implicit is not None, "--calib"),
    )  # fmt: skip
    for option, asked, flag in wanted:
        if asked and flag not in flags:
            raise ConfigError(
                f"trtexec of TensorRT {version} has no {flag}", hint=f"leave out {option}"
            )
    if config.implicit not in (None, "ranges"):
        raise ConfigError(
            f"--calibrator {config.implicit}: trtexec calibrates on random numbers only",
            hint="use --calibrator ranges: the bundle's own, found on images",
        )
    config.check_dla()


def with_calibration(
    build: Build, cache: str, keep_float: Sequence[str], flags: Collection[str], version: str
) -> Build:
    """Return a build that takes its ranges from a calibration cache.

    Args:
        build: With implicit INT8.
        cache: Path of the cache, which must be there: trtexec takes one that it cannot open for
            none, and calibrates on random numbers.
        keep_float: Layers that are not quantized.
        flags: That the executable has.
        version: Of TensorRT.

    Raises:
        ConfigError: This version cannot keep single layers in float.
    """
    if keep_float and "--layerPrecisions" not in flags:
        raise ConfigError(
            f"trtexec of TensorRT {version} cannot keep single layers in float",
            hint="quantize without --max-drop and without exceptions, or use --fp16",
        )
    return replace(
        build,
        calibration=cache,
        layer_precisions=format_layer_precisions(dict.fromkeys(keep_float, build.config.rest)),
    )


def graph_for(config: BuildConfig, flags: Collection[str]) -> GraphKind:
    """Return the graph to build from.

    A builder with precision options takes the float graph, or Q/DQ around FP32; one without takes
    every type from the graph.
    """
    return config.graph(strongly_typed="--fp16" not in flags or config.strongly_typed)


def build_arguments(build: Build, flags: Collection[str]) -> list[str]:
    """Return the options that build an engine and do nothing else.

    Args:
        build: What to build; `check_options` accepted it.
        flags: That the executable has.

    Raises:
        GraphError: A tensor's name cannot be written.
    """
    config = build.config
    arguments = [f"--onnx={build.onnx}", f"--saveEngine={build.engine}"]
    for position, name in enumerate(("--minShapes", "--optShapes", "--maxShapes")):
        if build.shapes:
            shapes = {tensor: bounds[position] for tensor, bounds in build.shapes.items()}
            arguments.append(f"{name}={shapes_option(shapes)}")
    arguments += [*_precision(build, flags), "--noTF32"]  # FP32 means FP32: docs/decisions
    if "--memPoolSize" not in flags:
        arguments.append(f"--workspace={build.workspace_mib or _WORKSPACE_MIB}")
    elif build.workspace_mib is not None:
        arguments.append(f"--memPoolSize=workspace:{build.workspace_mib}")
    if config.dla is not None:
        arguments += [f"--useDLACore={config.dla}", "--allowGPUFallback"]
    if config.optimization_level is not None:
        arguments.append(f"--builderOptimizationLevel={config.optimization_level}")
    if config.version_compatible:
        arguments.append("--versionCompatible")
    if config.hardware_compatible:
        arguments.append("--hardwareCompatibilityLevel=ampere+")
    if config.sparsity:
        arguments.append("--sparsity=enable")
    if build.timing_cache:
        arguments.append(f"--timingCacheFile={build.timing_cache}")
    if build.layers:
        arguments += ["--profilingVerbosity=detailed", f"--exportLayerInfo={build.layers}"]
    arguments.append("--skipInference" if "--skipInference" in flags else "--buildOnly")
    return arguments


def _precision(build: Build, flags: Collection[str]) -> list[str]:
    """Return the options that say which types the builder may choose."""
    config = build.config
    if "--fp16" not in flags:
        return []
    if config.strongly_typed:
        return ["--stronglyTyped"]
    arguments = []
    if "fp16" in (config.precision, config.rest if config.precision == "int8" else ""):
        arguments.append("--fp16")
    if config.precision == "int8":
        arguments.append("--int8")
    if build.calibration:
        arguments.append(f"--calib={build.calibration}")
    if build.layer_precisions:
        arguments += [
            f"--layerPrecisions={build.layer_precisions}",
            "--precisionConstraints=prefer",
        ]
    return arguments


def shapes_option(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return shapes by tensor name as trtexec reads them: ``input:1x3x224x224,…``."""
    return ",".join(f"{writable(name)}:{'x'.join(map(str, s))}" for name, s in shapes.items())


def writable(name: str) -> str:
    """Return a tensor's name, which trtexec ends at the last colon and takes quotes off."""
    if not name or set(name) & set(",'\n"):
        raise GraphError(
            f"trtexec has no way to write the tensor name {name!r}",
            hint="rename the input in the ONNX file",
        )
    return name
