"""TensorRT for RTX: builds engines ahead of time, on machines without a GPU too."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.base import Availability
from resnet_edge.errors import BackendUnavailableError, BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Plan", "build_plan", "probe", "version"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A serialized engine.

    Attributes:
        data: The plan, byte for byte what the builder returned.
        warnings: What the builder warned about, each text once.
    """

    data: bytes
    warnings: tuple[str, ...]


def probe() -> Availability:
    """Say whether TensorRT-RTX is installed."""
    try:
        trt = _load()
    except BackendUnavailableError as error:
        return Availability(False, None, f"{error.message}: {error.hint}")
    return Availability(True, trt.__version__, "builds without a GPU; running needs one")


def version() -> str:
    """Return the version a plan built here is bound to."""
    return str(_load().__version__)


def build_plan(
    onnx: bytes, *, compute_capabilities: Sequence[str], profile: tuple[int, int, int]
) -> Plan:
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
    return Plan(bytes(plan), tuple(dict.fromkeys(logger.warnings)))


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
