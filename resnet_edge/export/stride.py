"""Weights cannot say whether a bottleneck network is v1 or v1.5; trying both can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.evaluate import run_all
from resnet_edge.backends.pytorch import TorchSession
from resnet_edge.errors import CheckpointError, DataError
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.checkpoint import Checkpoint, load_model
from resnet_edge.progress import SILENT, Progress
from resnet_edge.statistics import count_pairs, mcnemar

__all__ = ["KnownLogits", "choose_by_labels", "choose_by_logits", "read_known_logits"]

_IMAGES = 512  # labelled images that both variants look at
_SIGNIFICANT = 0.05
_TOLERANCE = 1e-3  # of the largest logit, as for every other parity
_VARIANTS = {False: "v1.5 (stride in the 3x3)", True: "v1 (stride in the first 1x1)"}


@dataclass(frozen=True)
class KnownLogits:
    """What the network answered where it was trained.

    Attributes:
        inputs: float32 N x C x H x W, preprocessed.
        logits: float32 N x classes.
    """

    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]


def read_known_logits(path: Path) -> KnownLogits:
    """Read an ``.npz`` file with the arrays ``input`` and ``logits``.

    Raises:
        DataError: It is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            inputs, logits = archive["input"], archive["logits"]
    except Exception as error:  # a damaged file raises anything
        raise DataError(
            f"cannot read {path} as known logits: {error}",
            hint="numpy.savez(FILE, input=x, logits=model(x)) writes one",
        ) from error
    fits = inputs.ndim == 4 and logits.ndim == 2 and len(inputs) == len(logits) > 0
    if not fits or {inputs.dtype.kind, logits.dtype.kind} != {"f"}:
        raise DataError(
            f"{path}: input is {inputs.dtype} {inputs.shape}, logits {logits.dtype} {logits.shape}",
            hint="float arrays N x C x H x W and N x classes",
        )
    return KnownLogits(inputs.astype(np.float32), logits.astype(np.float32))


def choose_by_logits(checkpoint: Checkpoint, known: KnownLogits) -> Checkpoint:
    """Return the checkpoint as the variant that reproduces known logits, with a note.

    Raises:
        CheckpointError: No variant does.
        DataError: The inputs or logits are not this network's.
    """
    config = checkpoint.config
    if known.inputs.shape[1] != config.in_channels or known.logits.shape[1] != config.outputs:
        raise DataError(
            f"the known logits are for {known.inputs.shape[1]} input channels and "
            f"{known.logits.shape[1]} outputs, the network has {config.in_channels} and "
            f"{config.outputs}"
        )
    largest = float(abs(known.logits).max())
    errors = {}
    for stride in _variants(checkpoint):
        logits = _run(checkpoint, stride, known.inputs)
        errors[stride] = float(abs(logits - known.logits).max())
    best = min(errors, key=lambda stride: errors[stride])
    measured = ", ".join(f"{_VARIANTS[s]}: max|Δ| {e:.2g}" for s, e in errors.items())
    if not errors[best] <= _TOLERANCE * largest:
        raise CheckpointError(
            f"{checkpoint.path} does not reproduce the known logits (max|logit| {largest:.3g}); "
            f"{measured}",
            hint="check --arch, and that the inputs are preprocessed and the model was in eval()",
        )
    return _settled(checkpoint, best, f"the known logits are reproduced: {measured}")


def choose_by_labels(
    checkpoint: Checkpoint,
    spec: ImageSpec,
    images: ImageSource,
    labels: NDArray[np.int64],
    *,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Return the checkpoint as the variant that labelled images speak for, with a note.

    McNemar's test on the images that only one variant gets right decides at the 5 % level; else
    v1.5 stays assumed. A checkpoint whose variant is known is returned as it is.
    """
    if checkpoint.stride_known:
        return checkpoint
    indices = np.linspace(0, len(images) - 1, min(_IMAGES, len(images)), dtype=int).tolist()
    logits = {}
    for stride, words in _VARIANTS.items():
        with TorchSession(load_model(_as(checkpoint, stride)), spec) as session:
            logits[stride], kept, _ = run_all(
                session, images, spec, indices=indices, label=words, progress=progress
            )
    truth = labels[list(kept)]
    pairs = count_pairs(logits[False], logits[True], truth)
    measured = f"{len(truth)} labelled images, " + ", ".join(
        f"{words}: top-1 {100 * float((logits[stride].argmax(1) == truth).mean()):.1f} %"
        for stride, words in _VARIANTS.items()
    )
    if mcnemar(pairs) >= _SIGNIFICANT:
        note = f"the images cannot tell v1 from v1.5 ({measured})"
        return replace(checkpoint, notes=(*checkpoint.notes, note))
    return _settled(checkpoint, pairs.won > pairs.lost, measured)


def _variants(checkpoint: Checkpoint) -> tuple[bool, ...]:
    return (checkpoint.config.stride_in_1x1,) if checkpoint.stride_known else (False, True)


def _as(checkpoint: Checkpoint, stride: bool) -> Checkpoint:
    return replace(checkpoint, config=replace(checkpoint.config, stride_in_1x1=stride))


def _settled(checkpoint: Checkpoint, stride: bool, note: str) -> Checkpoint:
    kept = [n for n in checkpoint.notes if not n.startswith("v1.5 assumed")]
    chosen = [] if checkpoint.stride_known else [f"{_VARIANTS[stride]} chosen"]
    notes = (*kept, "; ".join([*chosen, note]))
    return replace(_as(checkpoint, stride), stride_known=True, notes=notes)


def _run(checkpoint: Checkpoint, stride: bool, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    model = load_model(_as(checkpoint, stride))
    with torch.inference_mode():
        rows = [model(torch.from_numpy(inputs[i : i + 32])) for i in range(0, len(inputs), 32)]
    result: NDArray[np.float32] = torch.cat(rows).numpy()
    return result
