"""Prove that an ONNX model equals its reference, and keep both in a bundle."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from resnet_edge.backends.base import Session
from resnet_edge.backends.evaluate import run_all
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import ModelInfo, Record
from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.reference import GOLDEN_COUNT, Evaluated, Golden
from resnet_edge.errors import DataError
from resnet_edge.files import sha256_json
from resnet_edge.graph.onnx_model import save_graph
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.labels import resolve_labels
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.progress import SILENT, Progress

__all__ = [
    "Parity",
    "compare_logits",
    "fingerprint",
    "golden_images",
    "labels_for",
    "save_model",
    "store_logits",
    "write_metadata",
]

# Accepted difference, relative to the largest logit (DESIGN: checkpoints and parity).
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """How closely one model follows another on the same images.

    Attributes:
        n: Images compared.
        max_abs: Largest difference of any logit.
        max_logit: Largest magnitude of any reference logit.
        argmax_equal: Images on which both predict the same class.
    """

    n: int
    max_abs: float
    max_logit: float
    argmax_equal: int

    @property
    def accepted(self) -> bool:
        """Whether the models count as equal."""
        return self.max_abs <= TOLERANCE * self.max_logit and self.argmax_equal == self.n


def compare_logits(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Parity:
    """Compare two sets of logits, N x classes each."""
    return Parity(
        n=len(reference),
        max_abs=float(np.abs(reference - candidate).max()),
        max_logit=float(np.abs(reference).max()),
        argmax_equal=int((reference.argmax(1) == candidate.argmax(1)).sum()),
    )


def golden_images(
    source: ImageSource, spec: ImageSpec, labels: NDArray[np.int64] | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return golden images, spread evenly over a source, and their labels, -1 where unknown.

    Raises:
        DataError: None of them can be decoded.
    """
    indices = np.linspace(0, len(source) - 1, min(GOLDEN_COUNT, len(source)), dtype=int).tolist()
    batches = list(ImageBatches(source, spec, len(indices), indices))
    if not batches:
        raise DataError(f"{source.path}: none of the golden images can be decoded")
    kept = [i for b in batches for i in b.indices]
    known = np.full(len(kept), -1) if labels is None else labels[kept]
    return np.concatenate([b.pixels for b in batches]), known.astype(np.int64)


def labels_for(source: ImageSource, info: ModelInfo, *, required: bool) -> NDArray[np.int64] | None:
    """Return the labels of a source in the model's terms, or None if it has none.

    Raises:
        DataError: The labels cannot belong to the model, and are ``required`` to.
    """
    try:
        return resolve_labels(source, class_names=info.labels, num_classes=info.num_classes)
    except DataError:
        if required:
            raise
        return None  # the shipped images only serve to compare numbers here


def fingerprint(source: ImageSource) -> str:
    """Hash what is cheap to hash: the size of the set and a few of its images."""
    return sha256_json([len(source), source.key(0), source.key(len(source) - 1)])


def save_model(
    bundle: Bundle,
    model: ModelProto,
    golden: Golden,
    source: ImageSource,
    record: Record,
    details: Mapping[str, Any],
    tools: tuple[str, ...] = (),
) -> None:
    """Write a proven model and its golden reference into a bundle.

    Args:
        bundle: Where they go.
        model: With its metadata.
        golden: The reference on images of ``source``.
        source: Where ``verify`` looks for images by default.
        record: What made the model.
        details: What is worth knowing about it.
        tools: Modules that took part besides ONNX and ONNX Runtime.
    """
    modules = [importlib.import_module(name) for name in (*tools, "onnxruntime", "onnx")]
    versions = {module.__name__: module.__version__ for module in modules}
    save_graph(model, bundle.file(MODEL))
    record = replace(record, tools=versions)
    bundle.record(MODEL, replace(record, details={**details, "data": source.path.name}))
    golden.save(bundle, record)


def write_metadata(model: ModelProto, info: ModelInfo) -> None:
    """Write what a bundle knows about a network into its ONNX model."""
    helper.set_model_props(
        model,
        {
            "resnet_edge.architecture": info.architecture,
            "resnet_edge.image_spec": json.dumps(info.image_spec.to_json()),
            "resnet_edge.labels": json.dumps(info.labels),
            "resnet_edge.source_sha256": info.source_sha256,
        },
    )
    model.producer_name = "resnet-edge"
    model.graph.name = info.architecture


def store_logits(
    bundle: Bundle,
    reference: Callable[[], Session],
    images: ImageSource,
    *,
    origin: str,
    stage: str,
    progress: Progress = SILENT,
) -> Evaluated:
    """Compute the reference's logits for every image and keep them in the bundle.

    Args:
        bundle: Where they go; nothing is computed if it has them.
        reference: Opens the reference.
        images: What it looks at.
        origin: Who computes: ``pytorch`` or ``onnx``.
        stage: Which stage asks.
        progress: Listener.
    """
    spec = bundle.model.image_spec
    known = Evaluated.load(bundle)
    keys = [images.key(i) for i in range(len(images))]
    if known is not None and known.lookup(keys) is not None:
        return known
    label = "PyTorch reference" if origin == "pytorch" else "ONNX reference"
    with reference() as session:
        logits, kept, _ = run_all(session, images, spec, label=label, progress=progress)
    evaluated = Evaluated(tuple(keys[i] for i in kept), logits, origin)
    evaluated.save(
        bundle,
        Record(
            stage=stage,
            config={"image_spec": spec.to_json()},
            inputs={
                "source": bundle.model.source_sha256,
                "model": bundle.sha256(MODEL),
                "images": sha256_json(keys),
            },
        ),
    )
    return evaluated
