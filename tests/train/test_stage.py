from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.errors import ConfigError, DataError, ResnetEdgeError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from resnet_edge.train.loop import TrainConfig
from resnet_edge.train.stage import TrainResult, train
from tests.conftest import require

torch = require("torch")
require("safetensors")

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = ImageSpec(resize=14, crop=(14, 14), mean=(0.5,), std=(0.25,), color="gray")
CONFIG = TrainConfig(arch="resnet20", epochs=2, batch_size=32, lr=0.05, device="cpu")
STEPS = 192 // 32


class Listener:
    """Counts training steps and, like a kill, stops the run at the first step past ``limit``."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.steps, self.totals = limit, 0, dict[str, int | None]()

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Any]:
        self.totals[label] = total
        yield self if label == "train" else Listener()

    def advance(self, steps: int = 1, *, status: str | None = None) -> None:
        self.steps += steps
        if self.steps == self.limit:
            raise KeyboardInterrupt


@pytest.fixture
def images(easy_images: Path) -> Any:
    return open_images(easy_images, split="train")


@pytest.fixture(scope="module")
def uninterrupted(easy_images: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A whole run with test images."""
    return train(
        open_images(easy_images, split="train"),
        CONFIG,
        tmp_path_factory.mktemp("run"),
        spec=SPEC,
        test=open_images(easy_images, split="test"),
        command="resnet-edge train easy",
    )


def same_weights(a: Path, b: Path) -> bool:
    first, second = read_checkpoint(a).state_dict, read_checkpoint(b).state_dict
    return all(torch.equal(v, second[k]) for k, v in first.items()) and len(first) == len(second)


def records(log: Path) -> list[dict[str, Any]]:
    epochs: list[dict[str, Any]] = json.loads(log.read_text())["epochs"]
    return epochs


def test_the_loss_falls_and_easy_classes_are_learnt(uninterrupted: TrainResult) -> None:
    first, last = records(uninterrupted.log)
    assert last["train_loss"] < first["train_loss"]
    assert uninterrupted.train_top1 > 80
    assert uninterrupted.train_top1 == last["train_top1"]
    assert uninterrupted.test_top1 == last["test_top1"]


def test_the_log_says_what_was_run_on_what_and_how_it_went(uninterrupted: TrainResult) -> None:
    log = json.loads(uninterrupted.log.read_text())
    assert log["command"] == "resnet-edge train easy"
    assert log["config"] == dataclasses.asdict(CONFIG)
    assert (log["data"]["train_images"], log["data"]["test_images"]) == (192, 64)
    assert log["environment"]["torch"] == torch.__version__
    assert log["environment"]["device"] == "cpu"
    assert [e["epoch"] for e in log["epochs"]] == [1, 2]
    assert [e["iterations"] for e in log["epochs"]] == [STEPS, 2 * STEPS]
    assert log["epochs"][0]["lr"] == pytest.approx(CONFIG.lr)
    assert 0 < log["epochs"][1]["lr"] < CONFIG.lr
    assert all(0 <= e["test_top1"] <= 100 for e in log["epochs"])


def test_the_training_accuracy_of_an_epoch_is_that_of_its_parts(uninterrupted: TrainResult) -> None:
    for epoch in records(uninterrupted.log):
        assert len(epoch["train_top1_parts"]) == STEPS
        assert np.mean(epoch["train_top1_parts"]) == pytest.approx(epoch["train_top1"])


def test_the_checkpoint_carries_everything_needed_to_use_it(
    uninterrupted: TrainResult, easy_images: Path
) -> None:
    checkpoint = read_checkpoint(uninterrupted.checkpoint)
    assert (checkpoint.architecture, checkpoint.image_spec) == ("resnet20", SPEC)
    assert checkpoint.labels == ("above", "below")
    assert checkpoint.notes == ()
    test: Any = open_images(easy_images, split="test")
    pixels = np.stack([SPEC.pixels(test.load(i)) for i in range(len(test))])
    with torch.inference_mode():
        logits = load_model(checkpoint)(torch.from_numpy(SPEC.to_input(pixels)))
    correct = int((logits.argmax(1).numpy() == test.labels).sum())
    assert 100 * correct / len(test) == uninterrupted.test_top1


def test_a_finished_run_leaves_only_its_checkpoint_and_its_log(uninterrupted: TrainResult) -> None:
    names = sorted(p.name for p in uninterrupted.log.parent.iterdir())
    assert names == ["checkpoint.safetensors", "log.json"]


@pytest.mark.parametrize("limit", [1, STEPS, STEPS + 1, 2 * STEPS])
def test_a_run_killed_at_any_step_and_resumed_ends_with_the_same_weights(
    tmp_path: Path, easy_images: Path, images: Any, uninterrupted: TrainResult, limit: int
) -> None:
    options: Any = {"spec": SPEC, "test": open_images(easy_images)}
    with pytest.raises(KeyboardInterrupt):
        train(images, CONFIG, tmp_path, **options, progress=Listener(limit))
    resumed = Listener()
    result = train(images, CONFIG, tmp_path, **options, progress=resumed)
    assert resumed.steps == resumed.totals["train"] == (STEPS if limit > STEPS else 2 * STEPS)
    assert same_weights(result.checkpoint, uninterrupted.checkpoint)
    for ours, theirs in zip(records(result.log), records(uninterrupted.log), strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}


@pytest.mark.parametrize("write", range(1, 6))
def test_a_run_killed_at_any_of_its_writes_and_resumed_ends_with_the_same_weights_and_log(
    tmp_path: Path, images: Any, uninterrupted: TrainResult, write: int
) -> None:
    """The kill comes just before the new file takes the place of the old."""
    rename, writes = Path.replace, 0

    def killed(path: Path, target: Path) -> Path:
        nonlocal writes
        writes += 1
        if writes == write:
            raise KeyboardInterrupt
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        train(images, CONFIG, tmp_path, spec=SPEC)
    result = train(images, CONFIG, tmp_path, spec=SPEC)
    assert [e["epoch"] for e in records(result.log)] == [1, 2]
    assert same_weights(result.checkpoint, uninterrupted.checkpoint)
    assert len(list(tmp_path.iterdir())) == 2


def test_another_seed_gives_other_weights(
    tmp_path: Path, images: Any, uninterrupted: TrainResult
) -> None:
    config = dataclasses.replace(CONFIG, seed=1)
    result = train(images, config, tmp_path, spec=SPEC)
    assert not same_weights(result.checkpoint, uninterrupted.checkpoint)


def subset(images: ArrayImages, indices: Any) -> ArrayImages:
    assert images.labels is not None
    return ArrayImages(images.path, images.pixels[indices], images.labels[indices])


def test_excluded_images_are_not_trained_on(tmp_path: Path, images: Any) -> None:
    config = dataclasses.replace(CONFIG, epochs=1)
    held_out, rest = np.arange(0, 64), np.arange(64, 192)
    listener = Listener()
    result = train(
        images,
        config,
        tmp_path / "excluding",
        spec=SPEC,
        exclude=[subset(images, held_out[:40]), subset(images, held_out[30:])],
        progress=listener,
    )
    without = train(subset(images, rest), config, tmp_path / "without", spec=SPEC)
    assert (result.excluded, without.excluded) == (64, 0)
    assert listener.steps == 128 // 32
    assert json.loads(result.log.read_text())["data"]["train_images"] == 128
    assert same_weights(result.checkpoint, without.checkpoint)


def test_excluding_every_image_is_our_error(tmp_path: Path, images: Any) -> None:
    with pytest.raises(DataError):
        train(images, CONFIG, tmp_path, spec=SPEC, exclude=[images])


OTHER = {
    "config": {"config": dataclasses.replace(CONFIG, lr=0.01)},
    "preprocessing": {"spec": dataclasses.replace(SPEC, mean=(0.4,))},
}


@pytest.mark.parametrize("other", OTHER)
def test_an_unfinished_run_of_another_configuration_is_not_resumed(
    tmp_path: Path, images: Any, other: str
) -> None:
    options: Any = {"images": images, "config": CONFIG, "output": tmp_path, "spec": SPEC}
    with pytest.raises(KeyboardInterrupt):
        train(**options, progress=Listener(STEPS + 1))
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="another configuration") as caught:
        train(**options | OTHER[other])
    assert "--output" in (caught.value.hint or "")
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_finished_run_of_another_configuration_is_not_overwritten(
    tmp_path: Path, images: Any, uninterrupted: TrainResult
) -> None:
    output = tmp_path / "run"
    shutil.copytree(uninterrupted.checkpoint.parent, output)
    with pytest.raises(ConfigError, match="another configuration"):
        train(images, dataclasses.replace(CONFIG, lr=0.01, epochs=1), output, spec=SPEC)
    assert same_weights(output / "checkpoint.safetensors", uninterrupted.checkpoint)


def test_a_damaged_resume_file_is_our_error(tmp_path: Path, images: Any) -> None:
    (tmp_path / "resume.pt").write_bytes(b"no such thing")
    with pytest.raises(ResnetEdgeError) as caught:
        train(images, CONFIG, tmp_path, spec=SPEC)
    assert "resume.pt" in caught.value.message


def test_images_without_labels_are_refused(tmp_path: Path, images: Any) -> None:
    with pytest.raises(DataError, match="no labels") as caught:
        train(ArrayImages(Path("d"), images.pixels, None), CONFIG, tmp_path, spec=SPEC)
    assert caught.value.hint


@pytest.mark.parametrize("names", [("above", "below"), None])
def test_test_images_of_more_classes_than_the_training_images_are_refused(
    tmp_path: Path, images: Any, names: tuple[str, ...] | None
) -> None:
    images = dataclasses.replace(images, class_names=names)
    strange = dataclasses.replace(images, labels=images.labels + 1)
    with pytest.raises(DataError):
        train(images, CONFIG, tmp_path, spec=SPEC, test=strange)


@pytest.mark.skipif(torch.cuda.is_available(), reason="proves what happens without a CUDA device")
def test_a_cuda_device_that_is_not_there_is_our_error(tmp_path: Path, images: Any) -> None:
    config = dataclasses.replace(CONFIG, device="cuda")
    with pytest.raises(ConfigError, match="no CUDA device"):
        train(images, config, tmp_path, spec=SPEC)
