"""The PyTorch reference a bundle carries along: golden images and per-image logits.

``reference.npz``: 32 golden images as pixels, with their logits and labels.
``evaluation.npz``: logits and labels of every evaluation image, keyed by content hash, so that a
device without PyTorch can compare with PyTorch.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import EVALUATION, GOLDEN, MODEL
from resnet_edge.bundle.provenance import model_record
from resnet_edge.errors import BundleError, ConfigError
from resnet_edge.files import write_bytes

__all__ = ["Evaluated", "Golden", "require_classifier"]

GOLDEN_COUNT = 32


@dataclass(frozen=True)
class Golden:
    """A few images with the reference's answer.

    Attributes:
        pixels: uint8 N x H x W x C, what the ImageSpec made of the image.
        logits: float32 N x classes, from PyTorch (from ONNX Runtime for a model without PyTorch).
        labels: int64 N, -1 where unknown.
    """

    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    def save(self, bundle: Bundle, record: Record) -> None:
        """Write into a bundle."""
        _save_npz(bundle.file(GOLDEN), pixels=self.pixels, logits=self.logits, labels=self.labels)
        bundle.record(GOLDEN, record)

    @classmethod
    def load(cls, bundle: Bundle) -> Golden:
        """Read from a bundle."""
        arrays = _load_npz(bundle.artifact(GOLDEN), ("pixels", "logits", "labels"))
        return cls(**arrays)


@dataclass(frozen=True)
class Evaluated:
    """Reference logits by image content.

    Attributes:
        keys: SHA-256 of every image.
        logits: float32 N x classes.
        source: Who computed them: ``pytorch`` or ``onnx``.
    """

    keys: tuple[str, ...]
    logits: NDArray[np.float32]
    source: str

    def lookup(self, keys: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the logits of these images in order, or None unless all are known."""
        position = {key: i for i, key in enumerate(self.keys)}
        if any(key not in position for key in keys):
            return None
        return self.logits[[position[key] for key in keys]]

    def save(self, bundle: Bundle, record: Record) -> None:
        """Write into a bundle."""
        digests = np.frombuffer(bytes.fromhex("".join(self.keys)), np.uint8).reshape(-1, 32)
        _save_npz(
            bundle.file(EVALUATION),
            keys=digests,
            logits=self.logits,
            source=np.array(self.source),
        )
        bundle.record(EVALUATION, record)

    @classmethod
    def load(cls, bundle: Bundle) -> Evaluated | None:
        """Read from a bundle; None if it has none, or only for an earlier model."""
        if EVALUATION not in bundle.names():
            return None
        entry, info = bundle.entry(EVALUATION), bundle.model
        belongs = (
            entry.inputs.get("source") == info.source_sha256
            and entry.inputs.get("model") == bundle.sha256(MODEL)
            and entry.config.get("image_spec") == info.image_spec.to_json()
        )
        if not belongs:
            return None
        arrays = _load_npz(bundle.artifact(EVALUATION), ("keys", "logits", "source"))
        keys = tuple(row.tobytes().hex() for row in arrays["keys"])
        return cls(keys, arrays["logits"], str(arrays["source"]))


def _save_npz(path: Path, **arrays: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _load_npz(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{path} is damaged: {error}", hint="export the checkpoint again"
        ) from error


def require_classifier(bundle: Bundle) -> None:
    """Refuse to judge the predicted classes of a network that predicts none.

    Raises:
        ConfigError: The network was exported without its classifier.
    """
    network = model_record(bundle).network
    if network is not None and network.get("num_classes") == 0:
        raise ConfigError(
            f"{bundle.path} ends in features, so there is no accuracy to compare",
            hint="export the checkpoint with its classifier (--head fc) and verify that bundle",
        )
