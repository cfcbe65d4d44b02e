"""An ONNX graph to an engine, with any TensorRT from 8.6 on and with TensorRT for RTX."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.tensorrt.callbacks import Failure
from resnet_edge.backends.tensorrt.features import TrtFeatures
from resnet_edge.backends.tensorrt.logger import Message, recording
from resnet_edge.backends.tensorrt.messages import explain
from resnet_edge.backends.tensorrt.settings import PlanRequest, configure
from resnet_edge.errors import BackendUnavailableError, BuildError
from resnet_edge.progress import Progress

if TYPE_CHECKING:
    import tensorrt

__all__ = ["Plan", "build_plan"]


@dataclass(frozen=True)
class Plan:
    """A serialized engine.

    Attributes:
        data: The engine.
        warnings: What the builder warned about.
        notes: How its types were decided, and what runs on the DLA.
    """

    data: bytes
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def build_plan(
    trt: ModuleType, source: Path | bytes, request: PlanRequest, progress: Progress
) -> Plan:
    """Build an engine.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        source: The graph whose precision fits the request, as a file or serialized.
        request: What to build.
        progress: Listener.

    Raises:
        BackendUnavailableError: TensorRT cannot be used here.
        BuildError: The parser or the builder refused.
        ConfigError: The request does not fit the network, the module or the device.
    """
    features = TrtFeatures.of(trt)
    failure = Failure()
    with recording(trt) as (logger, record), ExitStack() as stack:
        builder: tensorrt.Builder = _make_builder(trt, logger, record)
        network: tensorrt.INetworkDefinition = builder.create_network(
            _network_flags(trt, features, request.config)
        )
        # The parser holds the weights: it must live until the build has ended.
        parser: tensorrt.OnnxParser = _parse(trt, features, network, logger, record, source)
        builder_config: tensorrt.IBuilderConfig = builder.create_builder_config()
        notes = configure(trt, features, builder, network, builder_config, request)
        if features.calibrators and request.config.implicit and request.calibration:
            from resnet_edge.backends.tensorrt.calibrator import attach_calibrator

            stack.enter_context(
                attach_calibrator(
                    trt, builder_config, request.config.implicit, request.calibration,
                    request.config.profile[1], failure,
                )
            )  # fmt: skip
        stack.enter_context(_shown(trt, features, builder_config, progress, request.label, failure))
        serialized: tensorrt.IHostMemory | None = builder.build_serialized_network(
            network, builder_config
        )
        del parser
        failure.raise_if_any()
        if serialized is None:
            reason, hint = explain(record.errors)
            raise BuildError(f"{trt.__name__} could not build the engine: {reason}", hint=hint)
        if request.timing_cache is not None:
            request.timing_cache.keep(builder_config)
        return Plan(bytes(serialized), record.warnings, notes)


def _make_builder(trt: ModuleType, logger: Any, record: Message) -> tensorrt.Builder:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11's way to say that there is no driver
        reason, hint = explain(record.errors or (str(error),))
        raise BackendUnavailableError(
            f"{trt.__name__} cannot start: {reason}", hint=hint
        ) from error


def _network_flags(trt: ModuleType, features: TrtFeatures, config: BuildConfig) -> int:
    flags = 0
    if features.batch_flag:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if features.strong and features.strongly_typed(asked=config.strongly_typed):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def _parse(
    trt: ModuleType,
    features: TrtFeatures,
    network: tensorrt.INetworkDefinition,
    logger: Any,
    record: Message,
    source: Path | bytes,
) -> tensorrt.OnnxParser:
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    if isinstance(source, bytes):
        parsed = parser.parse(source)
    else:  # the path is where external weights are looked for
        parsed = parser.parse(source.read_bytes(), path=str(source))
    if parsed:
        return parser
    errors = []
    for index in range(parser.num_errors):
        error: tensorrt.ParserError = parser.get_error(index)
        where = f"node {error.node()}"
        if features.node_names:
            where = f"{error.node_operator()} {error.node_name()}".strip() or where
        errors.append(f"{where}: {error.desc()}")
    reason, hint = explain(errors or record.errors)
    raise BuildError(f"{trt.__name__} cannot parse the model: {reason}", hint=hint)


def _shown(
    trt: ModuleType,
    features: TrtFeatures,
    builder_config: tensorrt.IBuilderConfig,
    progress: Progress,
    label: str,
    failure: Failure,
) -> Any:
    """Return a context that shows the build's progress: by phases, or as one step."""
    if features.progress:
        from resnet_edge.backends.tensorrt.monitor import attach_progress

        return attach_progress(trt, builder_config, progress, label, failure)
    return progress.task(label, total=1)
