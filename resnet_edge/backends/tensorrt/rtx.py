"""TensorRT for RTX: builds engines ahead of time, on machines without a GPU too."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from resnet_edge.backends.config import BuildConfig, Calibration, EngineArtifact
from resnet_edge.backends.tensorrt.builder import build_plan as build_any
from resnet_edge.backends.tensorrt.common import ModuleBackend
from resnet_edge.backends.tensorrt.engine import LoadOptions, describe_engine, refuse_foreign
from resnet_edge.backends.tensorrt.logger import recording
from resnet_edge.backends.tensorrt.session import TensorRTSession
from resnet_edge.backends.tensorrt.settings import PlanRequest
from resnet_edge.catalog.targets import Target
from resnet_edge.errors import BackendUnavailableError, BundleError, EngineMismatchError
from resnet_edge.files import cache_folder, sha256_file, write_bytes
from resnet_edge.progress import SILENT, Progress

if TYPE_CHECKING:
    import tensorrt_rtx

__all__ = ["TensorRTRtxBackend", "build_plan", "runtime_cache_path"]

log = logging.getLogger(__name__)

_EXPERIMENTAL_INT8 = (
    "experimental: TensorRT for RTX documents INT8 for matrix products only; INT8 convolutions "
    "build, but nothing promises that they run as INT8"
)


class TensorRTRtxBackend(ModuleBackend):
    """Strongly typed engines: the graph alone decides the precision of every layer."""

    name = "tensorrt_rtx"
    install = "pip install 'resnet-edge[rtx]' (Linux x86-64)"
    options = frozenset({"strongly_typed", "compute_capabilities", "workspace", "sparsity"})

    def without_gpu(self, reason: str) -> str | None:
        """Return that building needs no GPU."""
        return "builds without a GPU; running needs one"

    def build(
        self,
        source: Path,
        target: Target,
        config: BuildConfig,
        *,
        calibration: Calibration | None = None,
        progress: Progress,
    ) -> EngineArtifact:
        """Build for one or several compute capabilities, ahead of time."""
        trt = self.load()
        capabilities = config.compute_capabilities or (target.compute_capability,)
        workspace = config.workspace_bytes(target)
        request = PlanRequest(
            config,
            workspace=workspace,
            compute_capabilities=capabilities,
            label=f"build {target.name} {config.precision}",
        )
        plan = build_any(trt, source, request, progress)
        return EngineArtifact(
            data=plan.data,
            warnings=plan.warnings,
            notes=(*plan.notes, *([_EXPERIMENTAL_INT8] if config.precision == "int8" else [])),
            compute_capabilities=tuple(capabilities),
            layers=self._layers(trt, plan.data, capabilities),
        )

    def _layers(self, trt: ModuleType, data: bytes, capabilities: Sequence[str]) -> str | None:
        """Describe the layers where the engine can be loaded: on a GPU it was built for."""
        try:
            capability = self.gpu().compute_capability
        except BackendUnavailableError:
            return None
        if capability not in capabilities:
            return None
        return describe_engine(trt, data, LoadOptions("the new engine"))

    def session(self, trt: ModuleType, engine: Path, options: LoadOptions) -> TensorRTSession:
        """Open a session that keeps what is compiled at the first inference beside the engine."""
        data, features = engine.read_bytes(), self.features()
        if features.validity:
            _check_validity(trt, data, options.name)
        if features.runtime_cache:
            contexts = _CachedContexts(trt, runtime_cache_path(engine))
            return TensorRTSession(trt, data, options, contexts)
        return TensorRTSession(trt, data, options)


def build_plan(
    onnx: bytes, *, compute_capabilities: Sequence[str], profile: tuple[int, int, int]
) -> EngineArtifact:
    """Build an engine from a serialized graph, outside any bundle.

    Args:
        onnx: A serialized model with one image input whose first dimension is the batch.
        compute_capabilities: For example ``("8.6", "8.9")``; none of them needs to be present.
        profile: Smallest, optimal and largest batch.

    Raises:
        BackendUnavailableError: TensorRT-RTX is not installed.
        BuildError: The parser or the builder refused the model.
        ConfigError: A compute capability is not supported.
    """
    trt = TensorRTRtxBackend().load()
    config = BuildConfig("fp32", profile=profile)  # the graph decides the precision
    request = PlanRequest(config, compute_capabilities=tuple(compute_capabilities))
    plan = build_any(trt, onnx, request, SILENT)
    return EngineArtifact(plan.data, plan.warnings, plan.notes, tuple(compute_capabilities))


def runtime_cache_path(engine: Path) -> Path:
    """Return where the kernels compiled for an engine on this machine are kept.

    Native code reads them, so they are the user's own and do not travel with the engine.
    """
    return cache_folder() / "kernels" / f"{sha256_file(engine)}.bin"


class _CachedContexts:
    """Execution contexts that share compiled kernels, kept in a file from run to run.

    TensorRT for RTX captures CUDA graphs itself, since it knows which kernels may change.
    """

    capture = False

    def __init__(self, trt: ModuleType, path: Path) -> None:
        self._trt, self._path = trt, path
        self._runtime_config: tensorrt_rtx.IRuntimeConfig | None = None
        self._kernels: tensorrt_rtx.IRuntimeCache | None = None
        self._before = b""

    def create(self, engine: tensorrt_rtx.ICudaEngine) -> tensorrt_rtx.IExecutionContext | None:
        """Return a new context, None if the library has no memory for it."""
        if self._runtime_config is None:
            self._configure(self._trt, engine)
        if self._runtime_config is None:
            return None
        return engine.create_execution_context(self._runtime_config)

    def close(self) -> None:
        """Write the cache if it has grown; without it the next start is slower, no more."""
        kernels: tensorrt_rtx.IRuntimeCache | None = self._kernels
        self._kernels = self._runtime_config = None
        if kernels is None:
            return
        serialized: tensorrt_rtx.IHostMemory | None = kernels.serialize()
        if serialized is None:
            log.warning("compiled kernels are not kept: the library does not give them out")
            return
        data = bytes(serialized)
        if data == self._before:
            return
        try:
            write_bytes(self._path, data)
        except BundleError as error:
            log.warning("compiled kernels are not kept: %s", error)

    def _configure(self, trt: ModuleType, engine: tensorrt_rtx.ICudaEngine) -> None:
        runtime_config: tensorrt_rtx.IRuntimeConfig | None = engine.create_runtime_config()
        if runtime_config is None:
            return
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._runtime_config = runtime_config
        kernels: tensorrt_rtx.IRuntimeCache | None = runtime_config.create_runtime_cache()
        if kernels is None:
            log.warning("compiled kernels are not kept: the library makes no cache for them")
            return
        self._before = self._read()
        if self._before and not kernels.deserialize(self._before):
            log.info("%s is of another machine or version; starting anew", self._path)
            self._before = b""
        if runtime_config.set_runtime_cache(kernels):
            self._kernels = kernels
        else:
            log.warning("compiled kernels are not kept: the library does not take the cache")

    def _read(self) -> bytes:
        """Return the kernels of earlier runs, empty where there are none."""
        try:
            return self._path.read_bytes() if self._path.is_file() else b""
        except OSError as error:
            log.warning("cannot read the compiled kernels in %s: %s", self._path, error)
            return b""


def _check_validity(trt: ModuleType, data: bytes, name: str) -> None:
    """Ask whether an engine fits this machine, before it is loaded.

    Raises:
        EngineMismatchError: It does not.
    """
    refuse_foreign(data, name, ahead_of_time=True)
    with recording(trt) as (logger, _):
        runtime: tensorrt_rtx.Runtime = trt.Runtime(logger)
        validity, why = runtime.get_engine_validity(data)
    if validity == trt.EngineValidity.INVALID:
        reasons = [
            reason.name.lower().replace("_", " ")
            for reason in trt.EngineInvalidityDiagnostics.__members__.values()
            if int(why) & int(reason)
        ]
        raise EngineMismatchError(
            f"TensorRT for RTX says that {name} cannot run here: "
            + (", ".join(reasons) or "it gives no reason"),
            hint="build it again, for this GPU and with this version",
        )
    if validity == trt.EngineValidity.SUBOPTIMAL:
        log.warning("%s runs here, but not as fast as if it were built again", name)
