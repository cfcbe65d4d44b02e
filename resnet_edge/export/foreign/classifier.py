"""An ONNX classifier made by someone else: how it is run, and how it becomes one of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.export.foreign.class_output import ClassOutput, ForeignSession
from resnet_edge.export.foreign.model import ImageInput
from resnet_edge.export.normalize.normal_form import Normalized, normalize
from resnet_edge.export.parity import compare_logits
from resnet_edge.images.spec import ImageSpec

__all__ = ["Converted", "ForeignClassifier", "converted"]


@dataclass(frozen=True)
class ForeignClassifier:
    """A foreign model and what is known about it.

    Attributes:
        path: The file it was read from.
        model: As it was read.
        source: Its image input.
        spec: What prepares its images.
        classes: Its output.
        simplify: Whether onnxsim takes part when it is brought into our form.
    """

    path: Path
    model: ModelProto
    source: ImageInput
    spec: ImageSpec
    classes: ClassOutput
    simplify: bool

    def open(self) -> ForeignSession:
        """Return a session that gives the logits, and the output itself if it differs."""
        tensors = dict.fromkeys((self.classes.logits, self.classes.name))
        return ForeignSession(self.model, self.source, self.spec, tuple(tensors))

    def normalize(self, *, free: bool) -> Normalized:
        """Return the model in our form; with ``free``, for any batch if it can be."""
        batch = self.source.batch or (2 if free else 1)
        return normalize(
            self.model,
            self.classes.logits,
            self.source.shape(self.spec, batch),
            to_nchw=(self.source.layout, self.source.dtype) == ("NHWC", "float32"),
            free=free,
            onnxsim=self.simplify,
        )


@dataclass(frozen=True)
class Converted:
    """A foreign model in our form.

    Attributes:
        result: The model.
        logits: Its own, of the images that the original was compared on.
        notes: What was changed, and why its batch stays fixed if it does.
    """

    result: Normalized
    logits: NDArray[np.float32]
    notes: tuple[str, ...]


def converted(
    original: ForeignClassifier, reference: NDArray[np.float32], images: NDArray[Any]
) -> Converted:
    """Bring a model into our form: for any batch if it can be, or for the one it takes.

    Args:
        original: The model.
        reference: Its logits of ``images``.
        images: Prepared.
    """
    fixed = original.source.batch
    found = original.normalize(free=True)
    reason = f"{found.blocked} mixes the images of a batch"
    if found.blocked is None:
        try:
            logits = _run(original, found, images, batch=None)
            if compare_logits(reference, logits).accepted:
                was = (f"the batch was fixed at {fixed} and is free now",) if fixed else ()
                return Converted(found, logits, (*was, *found.notes))
            reason = "the logits of an image depend on the others in its batch"
        except Exception as error:  # ONNX Runtime's exception classes are private
            reason = f"others do not run: {str(error).splitlines()[0]}"
    found = original.normalize(free=False)
    logits = _run(original, found, images, batch=fixed or 1)
    notes = (f"the batch stays fixed at {fixed or 1}: {reason}", *found.notes)
    return Converted(found, logits, notes)


def _run(
    original: ForeignClassifier, found: Normalized, images: NDArray[Any], *, batch: int | None
) -> NDArray[np.float32]:
    """Return the logits of a model in our form, for batches of different sizes if it can."""
    layout: Literal["NCHW", "NHWC"] = "NHWC" if original.source.dtype == "uint8" else "NCHW"
    source = replace(original.source, name="input", layout=layout, batch=batch)
    with ForeignSession(found.model, source, original.spec, ("logits",)) as session:
        parts = [images] if batch else [images[:1], images[1:4], images[4:]]
        return np.concatenate(
            [session.run({"input": part})["logits"] for part in parts if len(part)]
        )
