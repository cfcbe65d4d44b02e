"""Find the engine that is to be verified, check it, and say what can be executed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnet_edge.backends.base import Session
from resnet_edge.backends.loading import check_builder, open_engine
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.registry import get_backend
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.provenance import build_record, builds
from resnet_edge.bundle.sidecar import Sidecar, read_sidecar
from resnet_edge.errors import BackendUnavailableError, BundleError, EngineMismatchError
from resnet_edge.files import sha256_file
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.stand_in import halves, stand_in
from resnet_edge.quantize.fp16 import to_fp16

__all__ = ["Candidate", "Executed", "find_candidate"]

Executed = Literal["engine", "graph", "none"]


@dataclass(frozen=True)
class Candidate:
    """What is compared with the reference.

    Attributes:
        backend: Backend of the engine, ``onnxruntime`` for the float model.
        precision: ``fp32``, ``fp16`` or ``int8``.
        target: Name of the target; empty for the float model.
        file: The engine.
        runnable: The ONNX file ONNX Runtime executes: the engine itself, or its graph.
        executed: ``engine`` if ``runnable`` is the engine; ``graph`` if it stands in for it.
        sidecar: What the engine is; None for the float model.
        obstacle: Why the engine itself cannot run here; None if it can.
        trusted: The user vouches for an engine that was not built here.
    """

    backend: str
    precision: str
    target: str
    file: Path
    runnable: Path
    executed: Executed
    sidecar: Sidecar | None = None
    obstacle: str | None = None
    trusted: bool = False

    def open(self) -> Session:
        """Load what is executed.

        A graph that stands in for an engine runs as written: rounded to FP16 where it says so
        (`stand_in`), and without ONNX Runtime's own fusions, so that Q/DQ pairs mean what
        TensorRT takes them to mean. A float graph whose layers the builder could make FP16 runs
        with all of them in FP16.
        """
        if self.executed == "engine" and self.sidecar is not None:
            return open_engine(self.file, trusted=self.trusted)

        if self.executed == "graph":
            graph = load_graph(self.runnable)
            if self.precision == "fp16" and not halves(graph):
                graph = to_fp16(graph)
            return OnnxRuntimeSession(stand_in(graph), optimise="none")
        return OnnxRuntimeSession(self.runnable)


def find_candidate(
    bundle: Bundle,
    *,
    engine: Path | None = None,
    precision: str | None = None,
    backend: str | None = None,
    target: str | None = None,
    trusted: bool = False,
) -> Candidate:
    """Return the engine asked for, or the newest build that fits.

    Args:
        bundle: Where to look.
        engine: An engine file.
        precision: Of the build.
        backend: Of the build.
        target: Of the build.
        trusted: The user vouches for an engine that was not built here.

    Raises:
        BackendUnavailableError: The engine cannot run here, and nothing can stand in for it.
        BundleError: The bundle has no such build.
        EngineMismatchError: The engine, its sidecar and the bundle do not belong together.
    """
    if engine is not None:
        return _from_engine(bundle, engine, trusted)
    for name in reversed(builds(bundle)):
        made = build_record(bundle, name)
        if precision in (None, made.precision) and (
            backend in (None, made.target.backend) and target in (None, made.target.name)
        ):
            return _from_engine(bundle, bundle.artifact(name), trusted)
    if precision in (None, "fp32") and backend in (None, "onnxruntime") and target is None:
        model = bundle.artifact(MODEL)
        return Candidate("onnxruntime", "fp32", "", model, model, "engine")
    wanted = " ".join(w for w in (precision, backend, target) if w)
    raise BundleError(
        f"{bundle.path} has no {wanted} build",
        hint=f"make one with: resnet-edge build {bundle.path} …",
    )


def _from_engine(bundle: Bundle, engine: Path, trusted: bool) -> Candidate:
    sidecar = read_sidecar(engine)
    graph = bundle.file(sidecar.onnx)
    if not graph.is_file() or sha256_file(graph) != sidecar.onnx_sha256:
        raise EngineMismatchError(
            f"{engine} was built from another {sidecar.onnx} than the one in {bundle.path}",
            hint="the model or its calibration changed since; build again",
        )
    obstacle = get_backend(sidecar.backend).obstacle(sidecar)
    if obstacle is None:
        check_builder(engine, sidecar, trusted=trusted)
    if obstacle and sidecar.settings.get("implicit"):
        raise BackendUnavailableError(
            f"{engine} cannot run here ({obstacle}), and its graph cannot stand in for it: "
            "TensorRT quantized it while building",
            hint="verify it on the device, or build with Q/DQ pairs (leave out --implicit)",
        )
    return Candidate(
        backend=sidecar.backend,
        precision=sidecar.precision,
        target=sidecar.target,
        file=engine,
        runnable=graph if obstacle else engine,
        executed="graph" if obstacle else "engine",
        sidecar=sidecar,
        obstacle=obstacle,
        trusted=trusted,
    )
