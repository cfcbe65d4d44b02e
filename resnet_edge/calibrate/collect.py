"""Run images through the network once and count the activations at given tensors."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.backends.base import Session
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.errors import CalibrationError, DataError
from resnet_edge.files import sha256_json, write_bytes
from resnet_edge.graph.onnx_model import expose
from resnet_edge.images.batches import Feeds
from resnet_edge.images.source import ImageSource, NetworkInputs
from resnet_edge.images.spec import ImageSpec
from resnet_edge.progress import SILENT, Progress, Task

__all__ = ["Collected", "Partial", "collect"]

log = logging.getLogger(__name__)

# Activations of one batch are held twice: being counted, and being computed.
_BATCH_BYTES = 96 << 20
_MAX_BATCH = 64
_STORE_SECONDS = 5.0


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


@dataclass(frozen=True)
class Partial:
    """Where a pass is kept while it runs, so that a killed one can go on.

    Attributes:
        path: An npz file; whoever uses the result removes it.
        identity: Hash of the images and their preprocessing. A file of another identity, or of
            another model or other tensors, is ignored.
    """

    path: Path
    identity: str


def collect(
    model: ModelProto,
    tensors: Sequence[str],
    source: ImageSource | NetworkInputs,
    spec: ImageSpec,
    *,
    indices: Sequence[int],
    partial: Partial | None = None,
    gpu: bool = True,
    progress: Progress = SILENT,
) -> Collected:
    """Count the values of ``tensors`` over the images in one streaming pass.

    Memory does not grow with the number of images: batches are counted and dropped, one being
    counted while the next is computed. The counts do not depend on the order of the images, on
    the batch size, or on whether the pass was interrupted: counting does not, and ONNX Runtime
    computes every image of a batch with the same operations in the same order as alone
    (tests/calibrate/test_pitfalls.py holds it to that).

    Args:
        model: The network.
        tensors: What to count.
        source: Images, or network inputs, which bypass ``spec``.
        spec: Preprocessing of the images.
        indices: Which images.
        partial: Where to keep what is counted, now and then, and to go on from.
        gpu: Use ONNX Runtime's CUDA provider where there is one.
        progress: Listener.

    Raises:
        CalibrationError: A value is NaN or infinite.
        DataError: Too many images cannot be decoded, or inputs are not what the network takes.
    """
    if isinstance(source, NetworkInputs):
        _refuse_misfit(source, spec)
    if partial is not None:
        partial = replace(partial, identity=_identity(partial, model, tensors))
    begun = _load(partial, tensors) or Collected({name: Histogram() for name in tensors}, (), ())
    start = len(begun.indices) + len(begun.skipped)
    with (
        OnnxRuntimeSession(_exposed(model, tensors), gpu=gpu, spin=False) as session,
        progress.task("calibrate", total=len(indices)) as task,
    ):
        size = _batch_size(session, session.inputs[0].name, spec)
        feeds = Feeds(source, spec, size, indices, start, begun.skipped)
        if start:
            log.info("going on after %d of %d images", start, len(indices))
            task.advance(start)
        used = _count_all(session, feeds, begun, partial, task)
    if not used:
        raise CalibrationError(f"{source.path}: not one image could be decoded")
    return Collected(begun.histograms, used, tuple(feeds.skipped))


def _count_all(
    session: Session, feeds: Feeds, begun: Collected, partial: Partial | None, task: Task
) -> tuple[int, ...]:
    """Add all feeds to the histograms of ``begun`` and return the indices of all images in them."""
    name, used, pending = session.inputs[0].name, list(begun.indices), None
    began = stored = time.monotonic()
    with ThreadPoolExecutor(max_workers=1) as counter:
        for batch, rows in feeds:
            outputs = session.run_rows(batch)
            if pending is not None:
                pending.result()
            used += rows
            now, keep = time.monotonic(), None
            if partial is not None and now - stored >= _STORE_SECONDS:
                keep, stored = Collected(begun.histograms, tuple(used), tuple(feeds.skipped)), now
            pending = counter.submit(
                _count, begun.histograms, {name: batch} | outputs, partial, keep
            )
            rate = (len(used) - len(begun.indices)) / max(now - began, 1e-9)
            task.advance(len(rows), status=f"{rate:.{0 if rate >= 10 else 1}f} images/s")
        if pending is not None:
            pending.result()
    return tuple(used)


def _count(
    histograms: Mapping[str, Histogram],
    values: Mapping[str, NDArray[np.float32]],
    partial: Partial | None,
    keep: Collected | None,
) -> None:
    """Count one batch; then, in the same thread and so without a race, store where we are.

    The network's input is the first of ``values``.
    """
    name, inputs = "", next(iter(values))
    try:
        for name, histogram in histograms.items():
            histogram.update(values[name])
    except CalibrationError as error:
        raise CalibrationError(
            f"tensor {name}: {error.message}",
            hint="these are the inputs themselves; mend the data"
            if name == inputs
            else "the network overflows on these images; check the preprocessing",
        ) from error
    if partial is not None and keep is not None:
        _store(partial, keep)


def _identity(partial: Partial, model: ModelProto, tensors: Sequence[str]) -> str:
    digest = hashlib.sha256(model.SerializeToString())
    return sha256_json([partial.identity, digest.hexdigest(), list(tensors)])


def _store(partial: Partial, state: Collected) -> None:
    histograms = list(state.histograms.values())
    found = [h.sparse() for h in histograms]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        identity=np.array(partial.identity),
        used=np.array(state.indices, dtype=np.int64),
        skipped=np.array(state.skipped, dtype=np.str_),
        lengths=np.array([len(buckets) for buckets, _ in found]),
        buckets=np.concatenate([buckets for buckets, _ in found]),
        counts=np.concatenate([counts for _, counts in found]),
        extremes=np.array([(h.minimum, h.maximum) for h in histograms]),
    )
    write_bytes(partial.path, buffer.getvalue())


def _load(partial: Partial | None, tensors: Sequence[str]) -> Collected | None:
    """Return what an interrupted pass of the same identity has counted, if it can be read."""
    if partial is None or not partial.path.is_file():
        return None
    try:
        with partial.path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if str(archive["identity"]) != partial.identity:
                return None
            ends = np.cumsum(archive["lengths"])[:-1]
            parts = zip(
                tensors,
                np.split(archive["buckets"], ends),
                np.split(archive["counts"], ends),
                archive["extremes"],
                strict=True,
            )
            return Collected(
                {name: Histogram.from_sparse(b, c, low, high) for name, b, c, (low, high) in parts},
                tuple(archive["used"].tolist()),
                tuple(archive["skipped"].tolist()),
            )
    except Exception as error:  # a damaged archive raises anything
        log.warning("%s is damaged, calibration starts anew: %s", partial.path, error)
        return None


def _refuse_misfit(source: NetworkInputs, spec: ImageSpec) -> None:
    if spec.input != "float":
        raise DataError(
            f"the model normalises raw uint8 images itself, {source.path} holds preprocessed ones",
            hint="pass the images, as uint8 N x H x W x C",
        )
    if source.shape != spec.input_shape:
        have, want = (" x ".join(map(str, shape)) for shape in (source.shape, spec.input_shape))
        raise DataError(
            f"{source.path} holds inputs of {have}, the model takes {want}",
            hint="network inputs are float32 N x C x H x W",
        )


def _exposed(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """Return a copy of the model that also outputs ``tensors``, but for its inputs."""
    inputs = {i.name for i in model.graph.input}
    made = {o for n in model.graph.node for o in n.output}
    if unknown := [name for name in tensors if name not in made | inputs]:
        raise CalibrationError(f"the graph has no tensor {unknown[0]}")
    return expose(model, [name for name in tensors if name not in inputs])


def _batch_size(session: Session, name: str, spec: ImageSpec) -> int:
    """Choose the batch so that its activations stay within a budget, where the network lets us."""
    _, most = session.batch_range
    if most is not None:
        return most
    blank = np.zeros((1, *spec.crop, spec.channels), np.uint8)
    outputs = session.run({name: spec.to_input(blank)})
    size = sum(value.nbytes for value in outputs.values())
    return max(1, min(_MAX_BATCH, _BATCH_BYTES // max(1, size)))
