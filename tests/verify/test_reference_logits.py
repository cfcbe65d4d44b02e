"""Where the reference logits come from, and how often the checkpoint is read for them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import EVALUATION
from resnet_edge.catalog.shipped import CHECKPOINT, find
from resnet_edge.errors import CheckpointError, DataError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.models import formats
from resnet_edge.progress import SILENT
from resnet_edge.verify.reference_logits import reference_logits
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.models.formats import Contents

torch = require("torch")


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints whose tensors were loaded, once for each time."""
    found: list[Path] = []
    real = formats._read_safetensors

    def counted(path: Path) -> Contents:
        found.append(path)
        return real(path)

    monkeypatch.setattr(formats, "_read_safetensors", counted)
    return found


def source_of_logits(bundle: Bundle, checkpoint: Path | None) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    images = ArrayImages(bundle.path, pixels, None)
    keys = [images.key(i) for i in range(3)]
    return reference_logits(bundle, images, keys, range(3), checkpoint, SILENT)[1]


def test_the_checkpoint_is_read_once(bundle: Bundle, reads: list[Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    shutil.copyfile(find(CHECKPOINT), moved)
    assert source_of_logits(bundle, moved) == "pytorch"
    assert reads == [moved]
    assert source_of_logits(bundle, moved) == "pytorch"
    assert reads == [moved]  # the logits are in the bundle


@pytest.mark.parametrize("kind", ["another file", "an empty directory"])
def test_a_checkpoint_of_another_model_is_refused_unread(
    bundle: Bundle, reads: list[Path], tmp_path: Path, kind: str
) -> None:
    other = tmp_path / "other"
    if kind == "another file":
        other.write_bytes(find(CHECKPOINT).read_bytes() + b"\0")
    else:
        other.mkdir()
    with pytest.raises(DataError, match=r"is not the checkpoint .* was exported from"):
        source_of_logits(bundle, other)
    assert reads == []


def test_a_checkpoint_that_this_pytorch_cannot_read_leaves_the_float_onnx(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(path: Path) -> Contents:
        tried.append(path)
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint")

    monkeypatch.setattr(formats, "_read_safetensors", fail)
    assert source_of_logits(bundle, None) == "onnx"
    assert len(tried) == 1
    assert EVALUATION not in bundle.names()
