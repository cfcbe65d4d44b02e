"""The build stage: a bundle's graph to an engine for one target, with its sidecar."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from resnet_edge.artifacts import read_json, sha256_file, write_bytes, write_json
from resnet_edge.bundle import Record
from resnet_edge.errors import BundleError, ConfigError, EngineMismatchError
from resnet_edge.graph import load_graph
from resnet_edge.progress import SILENT
from resnet_edge.quantize.stage import quantize, stored_plan
from resnet_edge.reference import MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.bundle import Bundle
    from resnet_edge.progress import Progress
    from resnet_edge.quantize.stage import Graph
    from resnet_edge.targets import Target

__all__ = ["BuildConfig", "BuildResult", "Sidecar", "build", "read_sidecar", "sidecar_path"]

Precision = Literal["fp32", "fp16", "int8"]
_SCHEMA = 1


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        rest: For ``int8``: type of everything that is not quantized, ``fp16`` or ``fp32``.
        profile: Smallest, optimal and largest batch of the optimization profile.
    """

    precision: Precision
    rest: Literal["fp16", "fp32"] = "fp16"
    profile: tuple[int, int, int] = (1, 8, 32)

    def __post_init__(self) -> None:
        low, best, high = self.profile
        if not 1 <= low <= best <= high:
            raise ConfigError(
                f"profile {low},{best},{high} makes no sense",
                hint="give smallest,optimal,largest batch, for example --profile 1,8,32",
            )


@dataclass(frozen=True)
class Sidecar:
    """What stands beside an engine and is checked before it is loaded.

    Attributes:
        backend: ``onnxruntime`` or ``tensorrt_rtx``.
        runtime_version: Version of the library that built it, which a plan is bound to.
        target: Name of the target.
        compute_capability: Of the target; empty for a CPU.
        system: Operating system and architecture.
        precision: ``fp32``, ``fp16`` or ``int8``.
        rest: Type of what is not quantized.
        onnx: Path of the source graph relative to the bundle.
        onnx_sha256: Its hash.
        engine_sha256: Hash of the engine file.
        profile: Smallest, optimal and largest batch; None where any batch runs.
        warnings: What the builder warned about.
    """

    backend: str
    runtime_version: str
    target: str
    compute_capability: str
    system: str
    precision: str
    rest: str
    onnx: str
    onnx_sha256: str
    engine_sha256: str
    profile: tuple[int, int, int] | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class BuildResult:
    """An engine in the bundle.

    Attributes:
        engine: The file, byte-pure.
        sidecar_file: The JSON beside it.
        sidecar: Its content.
        size: Bytes of the engine.
        seconds: Time the build took; of the original build where cached.
        cached: True if the bundle already held this very engine.
    """

    engine: Path
    sidecar_file: Path
    sidecar: Sidecar
    size: int
    seconds: float
    cached: bool


def build(
    bundle: Bundle, target: Target, config: BuildConfig, *, progress: Progress = SILENT
) -> BuildResult:
    """Build an engine, or return the one the bundle already holds for the same inputs.

    Raises:
        ConfigError: The target cannot run this precision.
        CalibrationError: INT8 is asked for and the bundle has no calibration.
        BuildError: The builder refused.
    """
    _refuse_impossible(target, config)
    graph, name = _plan_names(target, config)
    source = quantize(bundle, graph, keep_float=_kept_in_float(bundle, target, config))
    runtime = _runtime_version(target)
    record = Record(
        stage="build",
        config={
            "target": asdict(target),
            "precision": config.precision,
            "rest": _rest(target, config),
            "profile": list(config.profile),
            "runtime": runtime,
        },
        inputs={"onnx": bundle.sha256(source.name)},
    )
    engine = bundle.file(name)
    if bundle.is_fresh(name, record) and sidecar_path(engine).is_file():
        seconds = float(bundle.entry(name)["details"]["seconds"])
        sidecar = read_sidecar(engine)
        return BuildResult(
            engine, sidecar_path(engine), sidecar, engine.stat().st_size, seconds, cached=True
        )
    started = time.perf_counter()
    with progress.task(f"build {target.name} {config.precision}", total=1) as task:
        data, warnings = _build(source.path, target, config)
        task.advance()
    seconds = round(time.perf_counter() - started, 3)
    write_bytes(engine, data)
    sidecar = Sidecar(
        backend=target.backend,
        runtime_version=runtime,
        target=target.name,
        compute_capability=target.compute_capability,
        system=f"{platform.system()} {platform.machine()}",
        precision=config.precision,
        rest=_rest(target, config),
        onnx=source.name,
        onnx_sha256=bundle.sha256(source.name),
        engine_sha256=sha256_file(engine),
        profile=None if target.backend == "onnxruntime" else config.profile,
        warnings=warnings,
    )
    write_json(sidecar_path(engine), {"schema": _SCHEMA, **asdict(sidecar), "bytes": len(data)})
    bundle.record(name, Record(**{**vars(record), "details": {"seconds": seconds}}))
    return BuildResult(engine, sidecar_path(engine), sidecar, len(data), seconds, cached=False)


def sidecar_path(engine: Path) -> Path:
    """Return where an engine's sidecar stands."""
    return engine.with_name(engine.name + ".json")


def read_sidecar(engine: Path) -> Sidecar:
    """Read an engine's sidecar and check that it describes this very file.

    Raises:
        EngineMismatchError: There is none, it is malformed, or the engine was changed.
    """
    path = sidecar_path(engine)
    if not engine.is_file():
        raise EngineMismatchError(f"no such engine: {engine}")
    if not path.is_file():
        raise EngineMismatchError(
            f"{engine} has no sidecar {path.name}, so nothing says what it was built from",
            hint="build it with resnet-edge; an engine runs native code and is not loaded on trust",
        )
    try:
        value: dict[str, Any] = dict(read_json(path))
        value = {k: value[k] for k in Sidecar.__dataclass_fields__}
        profile = value["profile"]
        value["profile"] = None if profile is None else tuple(int(n) for n in profile)
        value["warnings"] = tuple(value["warnings"])
        sidecar = Sidecar(**value)
    except (BundleError, KeyError, TypeError, ValueError) as error:
        raise EngineMismatchError(f"{path} is not an engine's sidecar: {error}") from error
    if sha256_file(engine) != sidecar.engine_sha256:
        raise EngineMismatchError(
            f"{engine} is not the file its sidecar describes", hint="build it again"
        )
    return sidecar


def _refuse_impossible(target: Target, config: BuildConfig) -> None:
    if target.backend == "onnxruntime" and config.precision == "fp16":
        raise ConfigError(
            "ONNX Runtime has no FP16 kernels for this CPU; it would be slower than FP32",
            hint="use --int8, or an rtx target",
        )
    if target.compute_capability == "7.5" and config.precision == "int8":
        raise ConfigError(
            "TensorRT-RTX does not support INT8 on Turing (compute capability 7.5)",
            hint="use --fp16",
        )


def _plan_names(target: Target, config: BuildConfig) -> tuple[Graph, str]:
    """Return the graph to build from and the engine's path in the bundle."""
    folder = f"engines/{target.name}"
    if target.backend == "onnxruntime":
        graph: Graph = "int8-cpu" if config.precision == "int8" else "fp32"
        return graph, f"{folder}/model.{config.precision}.onnx"
    if config.precision != "int8":
        return config.precision, f"{folder}/model.{config.precision}.engine"
    if config.rest == "fp16":
        return "int8-fp16", f"{folder}/model.int8.engine"
    return "int8", f"{folder}/model.int8-fp32.engine"


def _kept_in_float(bundle: Bundle, target: Target, config: BuildConfig) -> list[str] | None:
    """Leave fully connected layers in float where the engine only ever sees one image.

    TensorRT has no INT8 kernel for a matrix times a vector; quantized, the layer would only gain
    conversions (ModelOpt leaves it out for the same reason).
    """
    if config.precision != "int8" or target.backend == "onnxruntime" or config.profile[2] > 1:
        return None
    model = load_graph(bundle.artifact(MODEL))
    dense = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    return [*stored_plan(bundle), *dense]


def _rest(target: Target, config: BuildConfig) -> str:
    """Return the type of what is not quantized."""
    if config.precision != "int8":
        return config.precision
    return "fp32" if target.backend == "onnxruntime" else config.rest


def _runtime_version(target: Target) -> str:
    if target.backend == "tensorrt_rtx":
        from resnet_edge.backends import tensorrt_rtx

        return tensorrt_rtx.version()
    import onnxruntime

    return str(onnxruntime.__version__)


def _build(source: Path, target: Target, config: BuildConfig) -> tuple[bytes, tuple[str, ...]]:
    if target.backend == "onnxruntime":
        from resnet_edge.backends.onnxruntime import OnnxRuntimeSession

        with OnnxRuntimeSession(source):  # it must load; the graph itself is the engine
            return source.read_bytes(), ()
    from resnet_edge.backends.tensorrt_rtx import build_plan

    plan = build_plan(
        source.read_bytes(),
        compute_capabilities=(target.compute_capability,),
        profile=config.profile,
    )
    return plan.data, plan.warnings
