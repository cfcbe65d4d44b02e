"""Requests as trtexec options, as each version writes them.

Which options there are is decided by name, from the executable's own help; where none is
installed, from the table below (read off the public sources of every version in it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from resnet_edge.errors import ConfigError, GraphError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from resnet_edge.backends.base import BuildConfig, Precision
    from resnet_edge.quantize.stage import Graph

__all__ = ["Build", "Run", "build_arguments", "graph_for", "known_flags", "run_arguments"]

# Megabytes where the builder's own default is useless: TensorRT 8.2 takes 16 MiB.
_WORKSPACE_MIB = 1024

_Shape = tuple[int, ...]
_FIRST, _LAST = (8, 2), (99, 0)
# First and last version that lists the option in its help; all others of ours are in every one.
_LISTED: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "--workspace": (_FIRST, (8, 6)),
    "--memPoolSize": ((8, 4), _LAST),
    "--buildOnly": (_FIRST, (8, 5)),
    "--skipInference": ((8, 6), _LAST),
    "--fp16": (_FIRST, (10, 16)),
    "--int8": (_FIRST, (10, 16)),
    "--includeDataTransfers": ((11, 0), _LAST),
    "--noCudaGraph": ((11, 0), _LAST),
    "--noSpinWait": ((11, 0), _LAST),
}
_ALWAYS = frozenset({
    "--onnx", "--saveEngine", "--loadEngine", "--minShapes", "--optShapes", "--maxShapes",
    "--shapes", "--loadInputs", "--exportOutput", "--exportTimes", "--iterations", "--duration",
    "--warmUp", "--exposeDMA",
})  # fmt: skip


@dataclass(frozen=True)
class Build:
    """What is to be built.

    Attributes:
        onnx: The graph's file.
        engine: Where the engine goes.
        precision: ``fp32``, ``fp16`` or ``int8``.
        rest: For ``int8``: type of what is not quantized.
        shapes: Smallest, optimal and largest shape of every input with a dynamic batch.
        workspace_mib: Memory the builder may use, in MiB; None for its own default.
    """

    onnx: str
    engine: str
    precision: Precision
    rest: Literal["fp16", "fp32"]
    shapes: Mapping[str, tuple[_Shape, _Shape, _Shape]]
    workspace_mib: int | None = None


@dataclass(frozen=True)
class Run:
    """What an engine is run for: by default once, for its outputs.

    Attributes:
        export_outputs: File for the outputs; empty for none.
        export_times: File for the times; empty for none.
        warm_up_ms: Milliseconds of calls before the measurement.
        seconds: Of the measurement, at least.
        iterations: Calls, at least.
    """

    export_outputs: str = ""
    export_times: str = ""
    warm_up_ms: int = 0
    seconds: int = 0
    iterations: int = 1


def known_flags(version: str) -> frozenset[str]:
    """Return which of our options a version has, where its trtexec cannot be asked.

    Args:
        version: For example ``8.5`` or ``10.3.0``.

    Raises:
        ConfigError: It is no version from 8.2 on.
    """
    try:
        major, minor = (int(part) for part in (*version.split("."), "0")[:2])
    except ValueError as error:
        raise ConfigError(f"{version!r} is not a version of TensorRT") from error
    if (major, minor) < _FIRST:
        raise ConfigError(f"TensorRT {version} is too old", hint="8.2 and newer can be used")
    listed = {flag for flag, (a, b) in _LISTED.items() if a <= (major, minor) <= b}
    return frozenset(_ALWAYS | listed)


def graph_for(config: BuildConfig, flags: Collection[str]) -> Graph:
    """Return the graph to build from.

    A builder with precision options takes the float graph, or Q/DQ around FP32; one without takes
    every type from the graph.
    """
    if "--fp16" in flags:
        return "int8" if config.precision == "int8" else "fp32"
    if config.precision != "int8":
        return config.precision
    return "int8-fp16" if config.rest == "fp16" else "int8"


def build_arguments(build: Build, flags: Collection[str]) -> list[str]:
    """Return the options that build an engine and do nothing else.

    Raises:
        GraphError: A tensor's name cannot be written.
    """
    arguments = [f"--onnx={build.onnx}", f"--saveEngine={build.engine}"]
    for position, name in enumerate(("--minShapes", "--optShapes", "--maxShapes")):
        if build.shapes:
            shapes = {tensor: bounds[position] for tensor, bounds in build.shapes.items()}
            arguments.append(f"{name}={_shapes(shapes)}")
    if "--fp16" in flags:
        if build.precision == "fp16" or (build.precision == "int8" and build.rest == "fp16"):
            arguments.append("--fp16")
        if build.precision == "int8":
            arguments.append("--int8")
    if "--memPoolSize" in flags:
        if build.workspace_mib is not None:
            arguments.append(f"--memPoolSize=workspace:{build.workspace_mib}")
    else:
        arguments.append(f"--workspace={build.workspace_mib or _WORKSPACE_MIB}")
    arguments.append("--skipInference" if "--skipInference" in flags else "--buildOnly")
    return arguments


def run_arguments(
    engine: str,
    run: Run,
    *,
    files: Mapping[str, str],
    shapes: Mapping[str, _Shape],
    flags: Collection[str],
) -> list[str]:
    """Return the options that run an engine.

    The conditions are the same for every version: one call after another, copies included, no
    CUDA graph, no spinning. They are 10.x's defaults but for the overlap; 11 turned them round.

    Args:
        engine: The file.
        run: What for.
        files: Raw input by tensor name; paths without comma and colon.
        shapes: Of the inputs with dynamic dimensions.
        flags: That the executable has.

    Raises:
        GraphError: A tensor's name cannot be written.
    """
    loads = ",".join(f"{_writable(name)}:{file}" for name, file in files.items())
    arguments = [f"--loadEngine={engine}", f"--loadInputs={loads}"]
    if shapes:
        arguments.append(f"--shapes={_shapes(shapes)}")
    arguments += [
        f"--iterations={run.iterations}",
        f"--warmUp={run.warm_up_ms}",
        f"--duration={run.seconds}",
        "--exposeDMA",
    ]
    arguments += [
        flag
        for flag in ("--includeDataTransfers", "--noCudaGraph", "--noSpinWait")
        if flag in flags
    ]
    if run.export_outputs:
        arguments.append(f"--exportOutput={run.export_outputs}")
    if run.export_times:
        arguments.append(f"--exportTimes={run.export_times}")
    return arguments


def _shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    return ",".join(f"{_writable(name)}:{'x'.join(map(str, s))}" for name, s in shapes.items())


def _writable(name: str) -> str:
    """Return a tensor's name, which trtexec ends at the last colon and takes quotes off."""
    if not name or set(name) & set(",'\n"):
        raise GraphError(
            f"trtexec has no way to write the tensor name {name!r}",
            hint="rename the input in the ONNX file",
        )
    return name
