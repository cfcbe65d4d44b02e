"""The build stage: a bundle's graph to an engine for one target, with its sidecar."""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from resnet_edge.backends.base import Backend
from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.registry import get_backend
from resnet_edge.build.implicit import calibration_sha256, implicit_calibration
from resnet_edge.build.opset import within_opset
from resnet_edge.build.request import Request, check_request
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.local import is_own_engine, remember_engine
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.provenance import build_record
from resnet_edge.bundle.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar
from resnet_edge.catalog.targets import Target
from resnet_edge.files import write_bytes
from resnet_edge.graph.onnx_model import load_graph, tensor_specs
from resnet_edge.images.source import ImageSource, NetworkInputs
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.stage import base_name, float_layers, quantize

__all__ = ["BuildConfig", "BuildResult", "build", "check_build", "engine_name", "layers_path"]


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
    bundle: Bundle,
    target: Target,
    config: BuildConfig,
    *,
    images: ImageSource | NetworkInputs | None = None,
    progress: Progress = SILENT,
) -> BuildResult:
    """Build an engine, or return the one the bundle already holds for the same inputs.

    Args:
        bundle: Holds the model and, for INT8, a calibration.
        target: The device.
        config: What to build.
        images: What TensorRT calibrates on itself, where ``config.implicit`` asks for that.
        progress: Listener.

    Raises:
        BackendUnavailableError: The target's library is not installed, or needs a GPU.
        ConfigError: The target cannot run this precision, or its backend lacks an option.
        CalibrationError: INT8 is asked for and the bundle has no calibration.
        BuildError: The builder refused.
    """
    check_build(bundle, target, config)
    backend = get_backend(target.backend)
    newest = target.opset_max(backend.version())
    source = within_opset(bundle, _source(bundle, backend, config), newest)
    calibration = implicit_calibration(bundle, config, images) if config.implicit else None
    rest, name = _rest(backend, config), engine_name(backend, target, config)
    record = Record(
        stage="build",
        config={
            "target": asdict(target),
            "precision": config.precision,
            "rest": rest,
            "profile": list(config.profile),
            "settings": config.settings,
            "runtime": backend.version(),
        },
        inputs={"onnx": bundle.sha256(source)}
        | ({"calibration": calibration_sha256(calibration, images)} if calibration else {}),
    )
    engine = bundle.file(name)
    fresh = bundle.is_fresh(name, record) and sidecar_path(engine).is_file()
    if fresh and (not backend.native or is_own_engine(bundle.sha256(name))):
        return _kept(bundle, name)
    started = time.perf_counter()
    graph = bundle.artifact(source)
    built = backend.build(graph, target, config, calibration=calibration, progress=progress)
    seconds = round(time.perf_counter() - started, 3)
    digest = hashlib.sha256(built.data).hexdigest()
    write_bytes(engine, built.data)
    remember_engine(digest)
    layers_path(engine).unlink(missing_ok=True)  # of an earlier engine
    if built.layers is not None:
        write_bytes(layers_path(engine), built.layers.encode())
    inputs, outputs = tensor_specs(load_graph(graph))
    sidecar = Sidecar(
        backend=target.backend,
        runtime_version=backend.version(),
        target=target.name,
        compute_capabilities=built.compute_capabilities,
        device=built.device,
        system=f"{platform.system()} {platform.machine()}",
        precision=config.precision,
        rest=rest,
        onnx=source,
        onnx_sha256=bundle.sha256(source),
        engine_sha256=digest,
        profile=config.profile if backend.profiles else None,
        settings=config.settings,
        inputs=inputs,
        outputs=outputs,
        warnings=built.warnings,
        notes=built.notes,
    )
    write_sidecar(engine, sidecar)
    made = Record(**{**vars(record), "details": {"seconds": seconds}})
    bundle.record(name, made, sha256=digest)
    return BuildResult(
        engine, sidecar_path(engine), sidecar, len(built.data), seconds, cached=False
    )


def layers_path(engine: Path) -> Path:
    """Return where the description of an engine's layers stands, if there is one."""
    return engine.with_name(engine.name + ".layers.json")


def check_build(bundle: Bundle, target: Target, config: BuildConfig) -> None:
    """Refuse what the target, then what its backend cannot do; `build` begins with it.

    Args:
        bundle: Holds the model.
        target: The device.
        config: What to build.

    Raises:
        BackendUnavailableError: The target's library is not installed.
        ConfigError: The target cannot run this precision, or its backend lacks an option.
    """
    backend = get_backend(target.backend)
    raw_pixels = bundle.model.image_spec.input == "uint8"
    check_request(target, Request(config, raw_pixels, backend.probe().version))
    backend.check(config)


def _source(bundle: Bundle, backend: Backend, config: BuildConfig) -> str:
    """Return the artifact to build from, made if need be."""
    if config.implicit == "ranges":
        return base_name(bundle)
    graph = backend.graph(config)
    return quantize(
        bundle,
        graph,
        keep_float=_kept_in_float(bundle, backend, config),
        reduce_range=config.reduce_range,
    ).name


def _kept(bundle: Bundle, name: str) -> BuildResult:
    engine = bundle.file(name)
    seconds = build_record(bundle, name).seconds
    size = engine.stat().st_size
    return BuildResult(
        engine, sidecar_path(engine), read_sidecar(engine), size, seconds, cached=True
    )


def engine_name(backend: Backend, target: Target, config: BuildConfig) -> str:
    """Return the relative path of an engine in its bundle."""
    parts: list[str] = [config.precision]
    if config.precision == "int8" and _rest(backend, config) == "fp32" and backend.fp16:
        parts.append("fp32")
    if config.implicit is not None:
        parts.append("implicit")
    if config.dla is not None:
        parts.append(f"dla{config.dla}")
    return f"engines/{target.name}/model.{'-'.join(parts)}{backend.suffix}"


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
    quantized = config.precision == "int8" and config.implicit is None
    if not quantized or not backend.profiles or config.profile[2] > 1:
        return None
    model = load_graph(bundle.artifact(MODEL))
    dense = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    return [*float_layers(bundle), *dense]
