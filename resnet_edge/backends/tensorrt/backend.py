"""TensorRT: builds on the device that runs the engine, a Jetson or a desktop GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import median
from types import ModuleType

from resnet_edge.backends.config import BuildConfig, Calibration, EngineArtifact
from resnet_edge.backends.cuda.device import probe as probe_device
from resnet_edge.backends.fastest import fastest, random_feed
from resnet_edge.backends.tensorrt.builder import build_plan
from resnet_edge.backends.tensorrt.common import ModuleBackend
from resnet_edge.backends.tensorrt.compatibility import check_device
from resnet_edge.backends.tensorrt.engine import LoadOptions, describe_engine
from resnet_edge.backends.tensorrt.session import TensorRTSession
from resnet_edge.backends.tensorrt.settings import PlanRequest
from resnet_edge.backends.tensorrt.timing_cache import TimingCache
from resnet_edge.catalog.targets import Target
from resnet_edge.errors import BackendUnavailableError, ConfigError
from resnet_edge.progress import Progress

__all__ = ["TensorRTBackend"]

log = logging.getLogger(__name__)

_TIMED = 100  # inferences


class TensorRTBackend(ModuleBackend):
    """Weakly typed engines where TensorRT has precision flags, else strongly typed ones."""

    name = "tensorrt"
    install = (
        "on a Jetson TensorRT comes with JetPack: make the virtual environment with "
        "--system-site-packages; elsewhere: pip install 'resnet-edge[tensorrt]'"
    )
    options = frozenset({
        "strongly_typed", "implicit", "dla", "workspace", "optimization_level", "builds",
        "version_compatible", "hardware_compatible", "sparsity", "timing_cache",
    })  # fmt: skip

    def without_gpu(self, reason: str) -> str | None:
        """Return None: it builds on the device it builds for."""
        return None

    def check(self, config: BuildConfig) -> None:
        """Refuse what this version of TensorRT cannot do."""
        super().check(config)
        features, version = self.features(), self.version()
        if config.strongly_typed and not features.strong:
            raise ConfigError(
                f"TensorRT {version} has no strongly typed networks",
                hint="leave out --strongly-typed",
            )
        if config.implicit is not None and not features.calibrators:
            config.refuse_implicit(version)
        if config.hardware_compatible and not features.hardware_compatibility:
            raise ConfigError(
                f"TensorRT {version} builds for one GPU only",
                hint="leave out --hardware-compatible",
            )
        config.check_dla()

    def build(
        self,
        source: Path,
        target: Target,
        config: BuildConfig,
        *,
        calibration: Calibration | None = None,
        progress: Progress,
    ) -> EngineArtifact:
        """Build on this machine's GPU, as often as asked for, and keep the fastest."""
        trt, gpu = self.load(), self.gpu()
        check_device(target, config, gpu)
        if config.builds > 1 and not (found := probe_device()).available:
            raise BackendUnavailableError(f"--builds measures the engines: {found.detail}")
        keep_timings = config.timing_cache and config.builds == 1  # or all builds would be equal
        request = PlanRequest(
            config,
            workspace=config.workspace_bytes(target),
            calibration=calibration,
            timing_cache=TimingCache(self.version(), gpu) if keep_timings else None,
            label=f"build {target.name} {config.precision}",
        )
        plans = [build_plan(trt, source, request, progress) for _ in range(config.builds)]
        options = LoadOptions("the new engine", config.dla, config.version_compatible)
        batch = config.profile[1]
        plan, notes = fastest(plans, lambda p: _gpu_ms(trt, p.data, options, batch), batch)
        return EngineArtifact(
            data=plan.data,
            warnings=plan.warnings,
            notes=(*plan.notes, *notes),
            compute_capabilities=(gpu.compute_capability,),
            device=gpu.name,
            layers=describe_engine(trt, plan.data, options),
        )

    def session(self, trt: ModuleType, engine: Path, options: LoadOptions) -> TensorRTSession:
        """Open a session that captures CUDA graphs."""
        return TensorRTSession(trt, engine.read_bytes(), options)


def _gpu_ms(trt: ModuleType, plan: bytes, options: LoadOptions, batch: int) -> float:
    with TensorRTSession(trt, plan, options) as session:
        feed = random_feed(session.inputs, batch)
        times = session.measure(feed, warm_up=0.0, seconds=0.0, count=_TIMED)
        return median(times.parts["compute"])
