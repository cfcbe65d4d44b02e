"""The device's own ``trtexec``: builds and runs engines where Python has no TensorRT."""

from __future__ import annotations

import logging
import shlex
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from resnet_edge.backends.base import Availability, Backend, Session
from resnet_edge.backends.config import BuildConfig, Calibration, EngineArtifact
from resnet_edge.backends.fastest import fastest, random_feed
from resnet_edge.backends.tensorrt.calibration_cache import cache_for
from resnet_edge.backends.tensorrt.compatibility import check_device, mismatch
from resnet_edge.backends.tensorrt.timing_cache import TimingCache
from resnet_edge.backends.trtexec.binary import Trtexec, find_trtexec
from resnet_edge.backends.trtexec.command import (
    Build,
    build_arguments,
    build_request,
    check_options,
    graph_for,
    with_calibration,
)
from resnet_edge.backends.trtexec.failures import explain, succeeded, warnings_in
from resnet_edge.backends.trtexec.inference import Run
from resnet_edge.backends.trtexec.process import run_program
from resnet_edge.backends.trtexec.session import TrtexecSession
from resnet_edge.bundle.names import GraphKind
from resnet_edge.bundle.sidecar import Sidecar
from resnet_edge.catalog.targets import Target
from resnet_edge.device.nvidia import Gpu, query_driver
from resnet_edge.errors import BackendUnavailableError, BuildError, EngineMismatchError
from resnet_edge.graph.onnx_model import load_graph, tensor_specs
from resnet_edge.progress import Progress
from resnet_edge.tensors import TensorSpec

__all__ = ["TrtexecBackend"]

log = logging.getLogger(__name__)

_BUILD_SECONDS = 4 * 3600.0  # a small board times every kernel of a large network for an hour
_CALIBRATION, _TIMINGS = "calibration.cache", "timing.cache"
_ENGINE, _LAYERS = "model.engine", "layers.json"
_WARM_UP, _TIMED, _CALLS = 0.5, 1.0, 50  # seconds, seconds at least, calls at least


class TrtexecBackend(Backend):
    """Every build and every call is a process of its own."""

    name = "trtexec"
    options = frozenset({
        "strongly_typed", "implicit", "dla", "workspace", "optimization_level", "builds",
        "version_compatible", "hardware_compatible", "sparsity", "timing_cache",
    })  # fmt: skip

    def probe(self) -> Availability:
        """Say whether there is a trtexec that works."""
        try:
            found = find_trtexec()
        except BackendUnavailableError as error:
            return Availability(False, None, f"{error.message}: {error.hint}")
        return Availability(True, found.version, str(found.path))

    def version(self) -> str:
        """Return the version of TensorRT an engine built here is bound to."""
        return find_trtexec().version

    def check(self, config: BuildConfig) -> None:
        """Refuse what this version of trtexec has no option for."""
        found = find_trtexec()
        self.check_for(config, found.flags, found.version)

    def check_for(self, config: BuildConfig, flags: Collection[str], version: str) -> None:
        """Refuse what some version of trtexec has no option for, installed or not.

        Raises:
            ConfigError: It has none.
        """
        super().check(config)
        check_options(config, flags, version)

    def graph(self, config: BuildConfig) -> GraphKind:
        """Return the graph this version builds from.

        Raises:
            BackendUnavailableError: There is no trtexec.
        """
        return graph_for(config, find_trtexec().flags)

    def build(
        self,
        source: Path,
        target: Target,
        config: BuildConfig,
        *,
        calibration: Calibration | None = None,
        progress: Progress,
    ) -> EngineArtifact:
        """Build beside the graph, as often as asked for, and hand over the fastest, whole."""
        trtexec, gpu = find_trtexec(), _gpu()
        if gpu is not None:
            check_device(target, config, gpu)
        keep_timings = config.timing_cache and config.builds == 1  # or all builds would be equal
        timings = TimingCache(trtexec.version, gpu) if gpu and keep_timings else None
        inputs, outputs = tensor_specs(load_graph(source))
        request = replace(
            build_request(str(source.resolve()), _ENGINE, inputs, target, config), layers=_LAYERS
        )
        with tempfile.TemporaryDirectory(dir=source.parent, prefix=".tmp-trtexec-") as name:
            folder = Path(name).resolve()
            if calibration is not None and calibration.cache is not None:
                cache = folder / _CALIBRATION
                cache.write_bytes(cache_for(trtexec.version, calibration.cache))
                request = with_calibration(
                    request, str(cache), calibration.keep_float, trtexec.flags, trtexec.version
                )
            if timings is not None:
                (folder / _TIMINGS).write_bytes(timings.read())
                request = replace(request, timing_cache=str(folder / _TIMINGS))
            builds = []
            with progress.task(
                f"build {target.name} {config.precision}", total=config.builds
            ) as task:
                for number in range(config.builds):
                    builds.append(_build(trtexec, request, folder / str(number)))
                    task.advance()
            if timings is not None and (folder / _TIMINGS).is_file():
                timings.write((folder / _TIMINGS).read_bytes())
            kept, notes = fastest(
                builds,
                lambda built: _gpu_ms(trtexec, built.folder / _ENGINE, inputs, outputs, config),
                config.profile[1],
            )
            layers = kept.folder / _LAYERS
            return EngineArtifact(
                data=(kept.folder / _ENGINE).read_bytes(),
                warnings=kept.warnings,
                notes=notes,
                compute_capabilities=((gpu or target).compute_capability,),
                device=gpu.name if gpu else "",
                layers=layers.read_text("utf-8", "replace") if layers.is_file() else None,
            )

    def obstacle(self, sidecar: Sidecar) -> str | None:
        """Return why an engine cannot run here: no trtexec, or made for another machine."""
        try:
            version = find_trtexec().version
        except BackendUnavailableError as error:
            return error.message
        return mismatch(sidecar, version, _gpu())

    def open(self, engine: Path, sidecar: Sidecar, *, host_code: bool = False) -> Session:
        """Return a session that starts trtexec for every call."""
        trtexec = find_trtexec()
        if obstacle := self.obstacle(sidecar):
            raise EngineMismatchError(f"{engine} cannot run here: {obstacle}", hint="build it here")
        return TrtexecSession(
            trtexec,
            engine,
            inputs=sidecar.inputs,
            outputs=sidecar.outputs,
            profile=sidecar.profile,
            defaults=Run.of(sidecar.settings, host_code=host_code),
        )


def _gpu() -> Gpu | None:
    """Return this machine's GPU; None where the driver cannot be asked, so that trtexec says it."""
    gpus = query_driver().gpus
    return gpus[0] if gpus else None


@dataclass(frozen=True)
class _Built:
    """A folder with an engine, and what trtexec warned about."""

    folder: Path
    warnings: tuple[str, ...]


def _build(trtexec: Trtexec, request: Build, folder: Path) -> _Built:
    """Run one build in a new folder.

    Raises:
        BuildError: It failed, or left no engine.
    """
    folder.mkdir()
    arguments = build_arguments(request, trtexec.flags)
    log.debug("%s", shlex.join([str(trtexec.path), *arguments]))
    outcome = run_program(trtexec.path, arguments, folder=folder, seconds=_BUILD_SECONDS)
    log.debug("%s", outcome.text)
    if not succeeded(outcome):
        message, hint = explain(outcome)
        raise BuildError(
            f"trtexec {trtexec.version} cannot build {request.onnx}: {message}", hint=hint
        )
    engine = folder / request.engine
    if not engine.is_file() or not engine.stat().st_size:
        raise BuildError(
            f"trtexec {trtexec.version} reported success but wrote no engine for {request.onnx}",
            hint="is the disk full?",
        )
    return _Built(folder, warnings_in(outcome.text))


def _gpu_ms(
    trtexec: Trtexec,
    engine: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    config: BuildConfig,
) -> float:
    """Return the median time on the GPU of a call with the optimal batch."""
    defaults = Run.of(config.settings, host_code=True)
    with TrtexecSession(
        trtexec, engine, inputs=inputs, outputs=outputs, profile=config.profile, defaults=defaults
    ) as session:
        feed = random_feed(inputs, config.profile[1])
        times = session.measure(feed, warm_up=_WARM_UP, seconds=_TIMED, count=_CALLS)
    return median(times.parts["compute"])
