"""v1 or v1.5: what weights cannot say, logits and labelled images can."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.errors import CheckpointError, DataError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from tests.conftest import require, stir_batch_norms

torch = require("torch")

from resnet_edge.export.stride import (  # noqa: E402
    KnownLogits,
    choose_by_labels,
    choose_by_logits,
    read_known_logits,
)
from resnet_edge.models.resnet import ResNet, ResNetConfig  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.models.checkpoint import Checkpoint

SPEC = ImageSpec(resize=None, crop=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
CONFIG = ResNetConfig("bottleneck", (1, 1, 1), (4, 8, 8), "small", num_classes=5)


@pytest.fixture(params=[True, False], ids=["v1", "v1.5"])
def network(request: pytest.FixtureRequest) -> ResNet:
    torch.manual_seed(0)
    model = stir_batch_norms(ResNet(replace(CONFIG, stride_in_1x1=request.param))).eval()
    with torch.inference_mode():  # every class is predicted for some images
        model.fc.bias -= model(torch.randn(64, 3, 16, 16)).mean(0)
    return model


@pytest.fixture
def checkpoint(network: ResNet, tmp_path: Path) -> Checkpoint:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return read_checkpoint(tmp_path / "model.pt")


def known(network: ResNet, count: int = 4) -> KnownLogits:
    x = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return KnownLogits(x.numpy(), network(x).numpy())


def test_known_logits_choose_the_variant_and_say_so(
    checkpoint: Checkpoint, network: ResNet
) -> None:
    assert not checkpoint.stride_known
    chosen = choose_by_logits(checkpoint, known(network))
    assert chosen.config == network.config
    assert chosen.stride_known
    assert not any("assumed (stride" in note for note in chosen.notes)
    assert any("chosen" in note and note.count("max|Δ|") == 2 for note in chosen.notes)


def test_known_logits_that_nothing_reproduces_are_refused(
    checkpoint: Checkpoint, network: ResNet
) -> None:
    right = known(network)
    with pytest.raises(CheckpointError, match="does not reproduce"):
        choose_by_logits(checkpoint, replace(right, logits=right.logits + 1))
    contradicted = replace(
        checkpoint,
        stride_known=True,
        config=replace(checkpoint.config, stride_in_1x1=not network.config.stride_in_1x1),
    )
    with pytest.raises(CheckpointError, match="does not reproduce"):
        choose_by_logits(contradicted, right)
    with pytest.raises(DataError, match="5"):
        choose_by_logits(checkpoint, replace(right, logits=right.logits[:, :4]))


def labelled(network: ResNet, count: int) -> tuple[ArrayImages, np.ndarray]:
    """Random images, each labelled with the class that the network finds likeliest."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    with torch.inference_mode():
        labels = network(torch.from_numpy(SPEC.to_input(pixels))).argmax(1).numpy()
    return ArrayImages(path=__file__, pixels=pixels, labels=labels), labels  # type: ignore[arg-type]


def test_labelled_images_choose_the_variant_and_say_so(
    checkpoint: Checkpoint, network: ResNet
) -> None:
    images, labels = labelled(network, 200)
    chosen = choose_by_labels(checkpoint, SPEC, images, labels)
    assert chosen.config == network.config
    assert chosen.stride_known
    assert any("chosen; 200 labelled images" in note for note in chosen.notes)


def test_images_that_cannot_tell_leave_the_assumption(
    checkpoint: Checkpoint, network: ResNet
) -> None:
    """Every second image has the label that the other variant predicts."""
    config = network.config
    other = ResNet(replace(config, stride_in_1x1=not config.stride_in_1x1)).eval()
    other.load_state_dict(network.state_dict())
    images, labels = labelled(network, 200)
    labels[::2] = labelled(other, 200)[1][::2]
    chosen = choose_by_labels(checkpoint, SPEC, images, labels)
    assert not chosen.stride_known
    assert not chosen.config.stride_in_1x1
    assert any("cannot tell v1 from v1.5" in note for note in chosen.notes)
    one = choose_by_labels(checkpoint, SPEC, *labelled(network, 1))
    assert not one.stride_known


@pytest.mark.parametrize(("alone", "told"), [(5, False), (6, True)], ids=["p=0.063", "p=0.031"])
def test_images_that_one_variant_alone_gets_right_decide_at_the_5_percent_level(
    checkpoint: Checkpoint, network: ResNet, alone: int, told: bool
) -> None:
    config = network.config
    other = ResNet(replace(config, stride_in_1x1=not config.stride_in_1x1)).eval()
    other.load_state_dict(network.state_dict())
    images, labels = labelled(network, 200)
    theirs = labelled(other, 200)[1]
    differ = np.flatnonzero(labels != theirs)
    assert len(differ) >= alone
    for i in differ[alone:]:  # both wrong
        labels[i] = next(c for c in range(5) if c not in (labels[i], theirs[i]))
    chosen = choose_by_labels(checkpoint, SPEC, images, labels)
    assert chosen.stride_known == told
    assert chosen.config.stride_in_1x1 == (config.stride_in_1x1 and told)


def test_what_is_known_is_not_tried(checkpoint: Checkpoint, network: ResNet) -> None:
    settled = replace(checkpoint, stride_known=True)
    images, labels = labelled(network, 10)
    assert choose_by_labels(settled, SPEC, images, labels) is settled


@pytest.mark.parametrize(
    "arrays",
    [
        None,
        {"input": np.zeros((2, 3, 4, 4), np.float32)},
        {"input": np.zeros((2, 3, 4, 4), np.float32), "logits": np.zeros((3, 5), np.float32)},
        {"input": np.zeros((2, 3, 4, 4), np.uint8), "logits": np.zeros((2, 5), np.float32)},
        {"input": np.zeros((2, 3, 4), np.float32), "logits": np.zeros((2, 5), np.float32)},
        {"input": np.array([{}], object), "logits": np.zeros((2, 5), np.float32)},
    ],
    ids=["text", "no logits", "counts", "pixels", "shape", "objects"],
)
def test_a_file_of_known_logits_is_checked(tmp_path: Path, arrays: dict[str, Any] | None) -> None:
    path = tmp_path / "known.npz"
    if arrays is None:
        path.write_text("hello")
    else:
        np.savez(path, **arrays)
    with pytest.raises(DataError, match=str(path)):
        read_known_logits(path)


def test_known_logits_are_read_as_they_were_saved(tmp_path: Path, network: ResNet) -> None:
    saved = known(network)
    np.savez(tmp_path / "known.npz", input=saved.inputs, logits=saved.logits.astype(np.float64))
    read = read_known_logits(tmp_path / "known.npz")
    assert np.array_equal(read.inputs, saved.inputs)
    assert np.allclose(read.logits, saved.logits)


def test_the_chosen_variant_is_what_loads(checkpoint: Checkpoint, network: ResNet) -> None:
    right = known(network)
    model = load_model(choose_by_logits(checkpoint, right))
    with torch.inference_mode():
        assert np.allclose(model(torch.from_numpy(right.inputs)).numpy(), right.logits, atol=1e-6)
