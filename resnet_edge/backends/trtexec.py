"""The device's own ``trtexec``: builds and runs engines where Python has no TensorRT."""

from __future__ import annotations

import logging
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_edge.backends.base import Availability, Backend, EngineArtifact
from resnet_edge.errors import BackendUnavailableError, BuildError, EngineMismatchError
from resnet_edge.graph import load_graph, tensor_specs
from resnet_edge.targets import detect_compute_capability
from resnet_edge.trtexec.binary import find_trtexec
from resnet_edge.trtexec.command import Build, build_arguments, graph_for
from resnet_edge.trtexec.failures import explain, succeeded, warnings_in
from resnet_edge.trtexec.process import run_program
from resnet_edge.trtexec.session import TrtexecSession

if TYPE_CHECKING:
    from resnet_edge.backends.base import BuildConfig, Session
    from resnet_edge.progress import Progress
    from resnet_edge.quantize.stage import Graph
    from resnet_edge.sidecar import Sidecar
    from resnet_edge.targets import Target

__all__ = ["TrtexecBackend", "build_request"]

log = logging.getLogger(__name__)

_BUILD_SECONDS = 4 * 3600.0  # a Nano times every kernel of a ResNet-152 in about an hour


class TrtexecBackend(Backend):
    """Every build and every call is a process of its own."""

    name = "trtexec"

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

    def graph(self, config: BuildConfig) -> Graph:
        """Return the graph this version builds from.

        Raises:
            BackendUnavailableError: There is no trtexec.
        """
        return graph_for(config, find_trtexec().flags)

    def build(
        self, source: Path, target: Target, config: BuildConfig, *, progress: Progress
    ) -> EngineArtifact:
        """Build beside the graph, and hand the file over when it is whole."""
        trtexec = find_trtexec()
        with tempfile.TemporaryDirectory(dir=source.parent, prefix=".tmp-trtexec-") as name:
            engine = Path(name).resolve() / "model.engine"
            request = build_request(source.resolve(), str(engine), config)
            arguments = build_arguments(request, trtexec.flags)
            log.debug("%s %s", trtexec.path, " ".join(arguments))
            outcome = run_program(
                trtexec.path, arguments, folder=Path(name), seconds=_BUILD_SECONDS
            )
            log.debug("%s", outcome.text)
            if not succeeded(outcome):
                message, hint = explain(outcome)
                raise BuildError(
                    f"trtexec {trtexec.version} cannot build {source}: {message}", hint=hint
                )
            data = engine.read_bytes() if engine.is_file() else b""
            if not data:
                raise BuildError(
                    f"trtexec {trtexec.version} reported success but wrote no engine for {source}",
                    hint="is the disk full?",
                )
            return EngineArtifact(data, warnings_in(outcome.text))

    def obstacle(self, sidecar: Sidecar) -> str | None:
        """Return why an engine cannot run here: no trtexec, or made for another machine."""
        try:
            found = find_trtexec()
        except BackendUnavailableError as error:
            return error.message
        here = f"{platform.system()} {platform.machine()}"
        capability = detect_compute_capability()
        for what, built, have in (
            ("TensorRT", sidecar.runtime_version, found.version),
            ("compute capability", sidecar.compute_capability, capability),
            ("system", sidecar.system, here),
        ):
            if built and have and built != have:
                return f"it was built for {what} {built}, this machine has {have}"
        return None

    def open(self, engine: Path, sidecar: Sidecar) -> Session:
        """Return a session that starts trtexec for every call."""
        trtexec = find_trtexec()
        if obstacle := self.obstacle(sidecar):
            raise EngineMismatchError(
                f"{engine} cannot run here: {obstacle}", hint="build it again on this machine"
            )
        return TrtexecSession(trtexec, engine, sidecar)


def build_request(source: Path, engine: str, config: BuildConfig) -> Build:
    """Return what trtexec is asked for.

    Args:
        source: The graph.
        engine: Where the engine goes.
        config: Precision and profile.

    Raises:
        BuildError: The profile does not fit a graph of fixed batch.
    """
    inputs, _ = tensor_specs(load_graph(source))
    fixed = inputs[0].shape[0]
    if fixed is not None and config.profile != (fixed,) * 3:
        raise BuildError(f"the model has a fixed batch of {fixed}", hint=f"pass --profile {fixed}")
    low, best, high = (
        {i.name: tuple(batch if n is None else n for n in i.shape) for i in inputs}
        for batch in config.profile
    )
    return Build(
        onnx=str(source),
        engine=engine,
        precision=config.precision,
        rest=config.rest,
        shapes={} if fixed else {name: (low[name], best[name], high[name]) for name in low},
    )
