"""The build stage: a bundle's graph to an engine for one target, with its sidecar."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from resnet_edge.artifacts import sha256_file, write_bytes
from resnet_edge.backends.base import BuildConfig
from resnet_edge.backends.registry import get_backend
from resnet_edge.bundle import Record
from resnet_edge.graph import load_graph
from resnet_edge.progress import SILENT
from resnet_edge.quantize.stage import quantize, stored_plan
from resnet_edge.reference import MODEL
from resnet_edge.request import Request, check_request
from resnet_edge.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.backends.base import Backend
    from resnet_edge.bundle import Bundle
    from resnet_edge.progress import Progress
    from resnet_edge.targets import Target

__all__ = ["BuildConfig", "BuildResult", "build"]


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
    backend = get_backend(target.backend)
    check_request(
        target,
        Request(config.precision, config.rest, config.profile, version=backend.probe().version),
    )
    graph = backend.graph(config)
    rest = _rest(backend, config)
    name = f"engines/{target.name}/{_file_name(config.precision, rest, backend)}"
    source = quantize(bundle, graph, keep_float=_kept_in_float(bundle, backend, config))
    record = Record(
        stage="build",
        config={
            "target": asdict(target),
            "precision": config.precision,
            "rest": rest,
            "profile": list(config.profile),
            "runtime": backend.version(),
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
        built = backend.build(source.path, target, config, progress=progress)
        task.advance()
    seconds = round(time.perf_counter() - started, 3)
    write_bytes(engine, built.data)
    sidecar = Sidecar(
        backend=target.backend,
        runtime_version=backend.version(),
        target=target.name,
        compute_capability=target.compute_capability,
        system=f"{platform.system()} {platform.machine()}",
        precision=config.precision,
        rest=rest,
        onnx=source.name,
        onnx_sha256=bundle.sha256(source.name),
        engine_sha256=sha256_file(engine),
        profile=config.profile if backend.profiles else None,
        warnings=built.warnings,
    )
    write_sidecar(engine, sidecar)
    bundle.record(name, Record(**{**vars(record), "details": {"seconds": seconds}}))
    return BuildResult(
        engine, sidecar_path(engine), sidecar, len(built.data), seconds, cached=False
    )


def _file_name(precision: str, rest: str, backend: Backend) -> str:
    mixed = precision == "int8" and rest == "fp32" and backend.fp16
    return f"model.{precision}{'-fp32' if mixed else ''}{backend.suffix}"


def _rest(backend: Backend, config: BuildConfig) -> str:
    """Return the type of what is not quantized."""
    if config.precision != "int8":
        return config.precision
    return config.rest if backend.fp16 else "fp32"


def _kept_in_float(bundle: Bundle, backend: Backend, config: BuildConfig) -> list[str] | None:
    """Leave fully connected layers in float where the engine only ever sees one image.

    TensorRT has no INT8 kernel for a matrix times a vector; quantized, the layer would only gain
    conversions (ModelOpt leaves it out for the same reason).
    """
    if config.precision != "int8" or not backend.profiles or config.profile[2] > 1:
        return None
    model = load_graph(bundle.artifact(MODEL))
    dense = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    return [*stored_plan(bundle), *dense]
