"""The logits that a candidate is compared with: PyTorch's wherever they can be had."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.evaluate import run_all
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.provenance import checkpoint_of
from resnet_edge.bundle.reference import Evaluated
from resnet_edge.errors import CheckpointError, DataError
from resnet_edge.export.stage import reload_model, store_evaluation
from resnet_edge.images.source import ImageSource
from resnet_edge.models.formats import content_sha256
from resnet_edge.progress import Progress

__all__ = ["reference_logits"]

log = logging.getLogger(__name__)


def reference_logits(
    bundle: Bundle,
    source: ImageSource,
    keys: Sequence[str],
    kept: Sequence[int],
    checkpoint: Path | None,
    progress: Progress,
) -> tuple[NDArray[np.float32], str]:
    """Return reference logits: recorded ones, else PyTorch's, else those of the float ONNX."""
    wanted = [keys[i] for i in kept]
    known = Evaluated.load(bundle)
    found = None if known is None else known.lookup(wanted)
    if known is not None and found is not None:
        return found, known.source
    model = _torch_model(bundle, checkpoint)
    if model is not None:
        evaluated = store_evaluation(bundle, model, source, progress=progress)
        found = evaluated.lookup(wanted)
        if found is None:
            raise DataError(f"{source.path} changed while it was being read")
        return found, evaluated.source

    log.warning("PyTorch or the checkpoint is not at hand; the float ONNX model is the reference")
    with OnnxRuntimeSession(bundle.artifact(MODEL)) as session:
        logits, _, _ = run_all(
            session, source, bundle.model.image_spec, indices=kept,
            label="ONNX reference", progress=progress,
        )  # fmt: skip
    return logits, "onnx"


def _torch_model(bundle: Bundle, checkpoint: Path | None) -> Any:
    """Return the PyTorch model if PyTorch and the bundle's own checkpoint are here."""
    path = checkpoint or checkpoint_of(bundle)
    if importlib.util.find_spec("torch") is None or path is None or not path.exists():
        return None
    try:
        if content_sha256(path) == bundle.model.source_sha256:
            return reload_model(bundle, path)
    except CheckpointError as error:
        # No checkpoint at all, or one that the PyTorch of this machine cannot read.
        log.debug("%s", error)
    if checkpoint is None:
        return None
    raise DataError(f"{path} is not the checkpoint {bundle.path} was exported from")
