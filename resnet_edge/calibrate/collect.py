"""Run images through the network once and count the activations at given tensors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_edge.batches import ImageBatches
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.errors import CalibrationError
from resnet_edge.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from resnet_edge.backends.base import Session
    from resnet_edge.data import ImageSource
    from resnet_edge.imaging import ImageSpec
    from resnet_edge.progress import Progress

__all__ = ["Collected", "collect"]

# Activations of one batch are held twice: being counted, and being computed.
_BATCH_BYTES = 96 << 20
_MAX_BATCH = 64


@dataclass(frozen=True)
class Collected:
    """What one pass over the images gave.

    Attributes:
        histograms: One per tensor.
        indices: Images that were used.
        skipped: Names of images that could not be decoded.
    """

    histograms: Mapping[str, Histogram]
    indices: tuple[int, ...]
    skipped: tuple[str, ...]


def collect(
    model: ModelProto,
    tensors: Sequence[str],
    source: ImageSource,
    spec: ImageSpec,
    *,
    indices: Sequence[int],
    progress: Progress = SILENT,
) -> Collected:
    """Count the values of ``tensors`` over the images in one streaming pass.

    Memory does not grow with the number of images: batches are counted and dropped, one being
    counted while the next is computed.

    Raises:
        CalibrationError: A value is NaN or infinite.
        DataError: Too many images cannot be decoded.
    """
    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession

    histograms = {name: Histogram() for name in tensors}
    used: list[int] = []
    with (
        OnnxRuntimeSession(_expose(model, tensors)) as session,
        ThreadPoolExecutor(max_workers=1) as counter,
        progress.task("calibrate", total=len(indices)) as task,
    ):
        name = session.inputs[0].name
        batches = ImageBatches(source, spec, _batch_size(session, name, spec), indices)
        pending = None
        for batch in batches:
            feed = {name: spec.to_input(batch.pixels)}
            outputs = session.run(feed)
            if pending is not None:
                pending.result()
            pending = counter.submit(_count, histograms, {**outputs, **feed})
            used += batch.indices
            task.advance(len(batch.indices))
        if pending is not None:
            pending.result()
    if not used:
        raise CalibrationError(f"{source.path}: not one image could be decoded")
    return Collected(histograms, tuple(used), tuple(batches.skipped))


def _count(histograms: Mapping[str, Histogram], values: Mapping[str, NDArray[np.float32]]) -> None:
    name = ""
    try:
        for name, histogram in histograms.items():
            histogram.update(values[name])
    except CalibrationError as error:
        raise CalibrationError(
            f"tensor {name}: {error.message}",
            hint="the network overflows on these images; check the preprocessing",
        ) from error


def _expose(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """Return a copy of the model that also outputs ``tensors``."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    existing = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    for name in tensors:
        if name in existing:
            continue
        if name not in known:
            raise CalibrationError(f"the graph has no tensor {name}")
        exposed.graph.output.append(known[name])
    return exposed


def _batch_size(session: Session, name: str, spec: ImageSpec) -> int:
    """Choose the batch so that one batch's activations stay within a fixed budget."""
    import numpy as np

    blank = np.zeros((1, *spec.crop, spec.channels), np.uint8)
    outputs = session.run({name: spec.to_input(blank)})
    size = sum(value.nbytes for value in outputs.values())
    return max(1, min(_MAX_BATCH, _BATCH_BYTES // max(1, size)))
