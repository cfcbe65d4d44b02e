"""The device's own ``trtexec``: builds and runs engines where Python has no TensorRT."""

from __future__ import annotations

import logging
import platform
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_edge.backends.base import Availability, Backend
from resnet_edge.backends.config import EngineArtifact
from resnet_edge.backends.tensorrt.compatibility import check_device, mismatch
from resnet_edge.backends.tensorrt.timing_cache import TimingCache
from resnet_edge.calibrate.layer_precisions import format_layer_precisions
from resnet_edge.calibrate.table import cache_for
from resnet_edge.device.driver import query_driver
from resnet_edge.errors import (
    BackendUnavailableError,
    BuildError,
    ConfigError,
    EngineMismatchError,
)
from resnet_edge.graph import load_graph, tensor_specs
from resnet_edge.trtexec.binary import find_trtexec
from resnet_edge.trtexec.command import build_arguments, build_request, check_options, graph_for
from resnet_edge.trtexec.failures import explain, succeeded, warnings_in
from resnet_edge.trtexec.process import run_program
from resnet_edge.trtexec.session import TrtexecSession

if TYPE_CHECKING:
    from resnet_edge.backends.base import Session
    from resnet_edge.backends.config import BuildConfig, Calibration
    from resnet_edge.device.driver import Gpu
    from resnet_edge.progress import Progress
    from resnet_edge.quantize.stage import Graph
    from resnet_edge.sidecar import Sidecar
    from resnet_edge.targets import Target
    from resnet_edge.trtexec.binary import Trtexec
    from resnet_edge.trtexec.command import Build

__all__ = ["TrtexecBackend"]

log = logging.getLogger(__name__)

_BUILD_SECONDS = 4 * 3600.0  # a small board times every kernel of a large network for an hour
_CALIBRATION, _TIMINGS = "calibration.cache", "timing.cache"
_ENGINE, _LAYERS = "model.engine", "layers.json"


class TrtexecBackend(Backend):
    """Every build and every call is a process of its own."""

    name = "trtexec"
    options = frozenset({
        "strongly_typed", "implicit", "dla", "workspace", "optimization_level",
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
        super().check(config)
        found = find_trtexec()
        check_options(config, found.flags, found.version)

    def graph(self, config: BuildConfig) -> Graph:
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
        """Build beside the graph, and hand the file over when it is whole."""
        trtexec, gpu = find_trtexec(), _gpu()
        if gpu is not None:
            check_device(target, config, gpu)
        timings = TimingCache(trtexec.version, gpu) if gpu and config.timing_cache else None
        inputs, _ = tensor_specs(load_graph(source))
        request = replace(
            build_request(str(source.resolve()), _ENGINE, inputs, target, config), layers=_LAYERS
        )
        with tempfile.TemporaryDirectory(dir=source.parent, prefix=".tmp-trtexec-") as name:
            folder = Path(name).resolve()
            if calibration is not None and calibration.cache is not None:
                request = _with_calibration(request, calibration, trtexec, folder)
            if timings is not None:
                (folder / _TIMINGS).write_bytes(timings.read())
                request = replace(request, timing_cache=_TIMINGS)
            with progress.task(f"build {target.name} {config.precision}", total=1) as task:
                warnings = _build(trtexec, request, folder)
                task.advance()
            if timings is not None and (folder / _TIMINGS).is_file():
                timings.write((folder / _TIMINGS).read_bytes())
            layers = folder / _LAYERS
            return EngineArtifact(
                data=(folder / _ENGINE).read_bytes(),
                warnings=warnings,
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
        here = f"{platform.system()} {platform.machine()}"
        if sidecar.system != here:
            return f"it was built on {sidecar.system}, this is {here}"
        return mismatch(sidecar, version, _gpu())

    def open(self, engine: Path, sidecar: Sidecar) -> Session:
        """Return a session that starts trtexec for every call."""
        trtexec = find_trtexec()
        if obstacle := self.obstacle(sidecar):
            raise EngineMismatchError(f"{engine} cannot run here: {obstacle}", hint="build it here")
        return TrtexecSession(trtexec, engine, sidecar)


def _gpu() -> Gpu | None:
    """Return this machine's GPU; None where the driver cannot be asked, so that trtexec says it."""
    gpus = query_driver().gpus
    return gpus[0] if gpus else None


def _with_calibration(
    request: Build, calibration: Calibration, trtexec: Trtexec, folder: Path
) -> Build:
    """Write the cache, and say which layers stay in float.

    trtexec takes a cache that it cannot open for none, and calibrates on random numbers.
    """
    if calibration.keep_float and "--layerPrecisions" not in trtexec.flags:
        raise ConfigError(
            f"trtexec of TensorRT {trtexec.version} cannot keep single layers in float",
            hint="quantize without --max-drop and without exceptions, or use --fp16",
        )
    cache = cache_for(trtexec.version, calibration.cache or b"")
    (folder / _CALIBRATION).write_bytes(cache)
    kept = dict.fromkeys(calibration.keep_float, request.config.rest)
    return replace(
        request,
        calibration=str(folder / _CALIBRATION),
        layer_precisions=format_layer_precisions(kept),
    )


def _build(trtexec: Trtexec, request: Build, folder: Path) -> tuple[str, ...]:
    """Run the build in a folder, and return the warnings.

    Raises:
        BuildError: It failed, or left no engine.
    """
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
    return warnings_in(outcome.text)
