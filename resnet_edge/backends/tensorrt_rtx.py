"""TensorRT for RTX: builds engines ahead of time, on machines without a GPU too."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.base import Availability, Backend, EngineArtifact
from resnet_edge.errors import BackendUnavailableError, BuildError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from resnet_edge.backends.base import BuildConfig, Session
    from resnet_edge.progress import Progress
    from resnet_edge.quantize.stage import Graph
    from resnet_edge.sidecar import Sidecar
    from resnet_edge.targets import Target

__all__ = ["TensorRTRtxBackend", "build_plan"]

log = logging.getLogger(__name__)


class TensorRTRtxBackend(Backend):
    """Strongly typed engines: the graph alone decides the precision of every layer."""

    name = "tensorrt_rtx"

    def probe(self) -> Availability:
        """Say whether TensorRT-RTX is installed."""
        try:
            trt = _load()
        except BackendUnavailableError as error:
            return Availability(False, None, f"{error.message}: {error.hint}")
        return Availability(True, trt.__version__, "builds without a GPU; running needs one")

    def version(self) -> str:
        """Return the version a plan built here is bound to."""
        return str(_load().__version__)

    def graph(self, config: BuildConfig) -> Graph:
        """Return the graph whose element types are the precision asked for."""
        if config.precision != "int8":
            return config.precision
        return "int8-fp16" if config.rest == "fp16" else "int8"

    def build(
        self, source: Path, target: Target, config: BuildConfig, *, progress: Progress
    ) -> EngineArtifact:
        """Build for the target's compute capability, ahead of time."""
        if target.compute_capability == "7.5" and config.precision == "int8":
            raise ConfigError(
                "TensorRT-RTX does not support INT8 on Turing (compute capability 7.5)",
                hint="use --fp16",
            )
        return build_plan(
            source.read_bytes(),
            compute_capabilities=(target.compute_capability,),
            profile=config.profile,
        )

    def obstacle(self, sidecar: Sidecar) -> str | None:
        """Return why the engine cannot run here."""
        return "running TensorRT-RTX engines is not implemented yet"

    def open(self, engine: Path, sidecar: Sidecar) -> Session:
        """Load an engine."""
        raise BackendUnavailableError(f"{engine}: {self.obstacle(sidecar)}")


def build_plan(
    onnx: bytes, *, compute_capabilities: Sequence[str], profile: tuple[int, int, int]
) -> EngineArtifact:
    """Build a strongly typed engine: the graph alone decides the precision of every layer.

    Args:
        onnx: A serialized model with one image input whose first dimension is the batch.
        compute_capabilities: For example ``("8.6", "8.9")``; none of them needs to be present.
        profile: Smallest, optimal and largest batch.

    Raises:
        BackendUnavailableError: TensorRT-RTX is not installed.
        BuildError: The parser or the builder refused the model.
    """
    trt = _load()
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise BuildError(
            "TensorRT-RTX cannot parse the model: "
            + "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors[:3])
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_profile(builder, config, network, profile)
    config.num_compute_capabilities = len(compute_capabilities)
    for position, capability in enumerate(compute_capabilities):
        config.set_compute_capability(_capability(trt, capability), position)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            "TensorRT-RTX could not build the engine: " + "; ".join(logger.errors[-3:])
        )
    return EngineArtifact(bytes(plan), tuple(dict.fromkeys(logger.warnings)))


def _load() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise BackendUnavailableError(
            "TensorRT-RTX is not installed", hint="pip install 'resnet-edge[rtx]' (Linux x86-64)"
        ) from error
    return tensorrt_rtx


def _set_profile(builder: Any, config: Any, network: Any, profile: tuple[int, int, int]) -> None:
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if shape[0] != -1:
        if profile != (shape[0],) * 3:
            raise BuildError(
                f"the model has a fixed batch of {shape[0]}", hint=f"pass --profile {shape[0]}"
            )
        return
    optimization = builder.create_optimization_profile()
    optimization.set_shape(tensor.name, *[(batch, *shape[1:]) for batch in profile])
    if config.add_optimization_profile(optimization) < 0:
        raise BuildError(
            f"TensorRT-RTX refused the profile {profile}",
            hint="need smallest <= optimal <= largest",
        )


def _capability(trt: Any, capability: str) -> Any:
    name = "SM" + capability.replace(".", "")
    value = getattr(trt.ComputeCapability, name, None)
    if value is None:
        known = [n for n in dir(trt.ComputeCapability) if n.startswith("SM")]
        raise BuildError(
            f"TensorRT-RTX {trt.__version__} does not support compute capability {capability}",
            hint=f"it supports {', '.join(sorted(known))}",
        )
    return value


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the bindings are untyped
        """Keep warnings and errors for the result instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.warnings: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message.strip())
            elif severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())
            log.debug("tensorrt_rtx: %s", message)

    return Logger()
