from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_edge.errors import BackendUnavailableError, ConfigError
from resnet_edge.experiment.compare import compare
from resnet_edge.experiment.curves import Comparison, final_table, run_directory
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images
from resnet_edge.images.spec import FASHION_MNIST, ImageSpec
from resnet_edge.train.loop import TrainConfig
from tests.conftest import require
from tests.train.test_stage import Listener

require("torch")
require("safetensors")
require("matplotlib")

SPEC = ImageSpec(resize=8, crop=(8, 8), mean=(0.5,), std=(0.25,), color="gray")
RECIPE = TrainConfig(
    epochs=2, epoch_images=96, batch_size=16, lr=0.05, width=0.25, device="cpu", pad=1
)
NETWORKS = [replace(RECIPE, arch=arch) for arch in ("plain20", "resnet20")]
STEPS = 96 // 16


@pytest.fixture
def sources(easy_images: Path) -> dict[str, Any]:
    return {
        "images": open_images(easy_images, split="train"),
        "test": open_images(easy_images, split="test"),
        "spec": SPEC,
    }


@pytest.fixture(scope="module")
def whole(easy_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """An uninterrupted comparison of two seeds, and its directory."""
    output = tmp_path_factory.mktemp("experiment")
    images, test = (open_images(easy_images, split=part) for part in ("train", "test"))
    comparison = compare(
        NETWORKS, 2, output, images=images, test=test, spec=SPEC, command="resnet-edge experiment"
    )
    return comparison, output


def without_seconds(comparison: Comparison) -> list[dict[str, Any]]:
    return [asdict(curve) | {"seconds": None} for curve in comparison.curves]


def test_all_networks_of_a_seed_come_before_the_next_seed(
    whole: tuple[Comparison, Path],
) -> None:
    order = [(curve.network, curve.seed) for curve in whole[0].curves]
    assert order == [(f"{k}20-w0.25", seed) for seed in (0, 1) for k in ("plain", "resnet")]


def test_curves_are_what_the_train_stage_logged(whole: tuple[Comparison, Path]) -> None:
    comparison, output = whole
    for curve in comparison.curves:
        log = json.loads(
            (run_directory(output, curve.network, curve.seed) / "log.json").read_text()
        )
        epochs = log["epochs"]
        assert curve.iterations == (STEPS, 2 * STEPS) == tuple(e["iterations"] for e in epochs)
        assert curve.test_error == pytest.approx([100 - e["test_top1"] for e in epochs], abs=1e-3)
        assert curve.train_loss == pytest.approx([e["train_loss"] for e in epochs], abs=1e-4)
        assert curve.last_train_error == pytest.approx(100 - epochs[-1]["train_top1"], abs=1e-3)
        assert len(curve.train_error) == 2 * STEPS
        assert curve.train_iterations == pytest.approx(range(1, 2 * STEPS + 1))
        assert log["config"]["seed"] == curve.seed


def test_all_networks_share_one_recipe_that_is_recorded(whole: tuple[Comparison, Path]) -> None:
    comparison, output = whole
    assert comparison.recipe == {
        k: v for k, v in asdict(RECIPE).items() if k not in ("arch", "shortcut", "seed")
    }
    for curve in comparison.curves:
        log = json.loads(
            (run_directory(output, curve.network, curve.seed) / "log.json").read_text()
        )
        assert comparison.recipe.items() <= log["config"].items()


def test_the_written_curves_read_back_equal(whole: tuple[Comparison, Path]) -> None:
    comparison, output = whole
    assert Comparison.read(output / "curves.json") == comparison
    assert "train_error" in json.loads((output / "curves.json").read_text())["measures"]


def test_the_plot_is_an_svg_with_every_network(whole: tuple[Comparison, Path]) -> None:
    svg = (whole[1] / "curves.svg").read_text()
    assert svg.startswith("<?xml")
    assert all(name in svg for name in ("plain20-w0.25", "resnet20-w0.25", "iterations"))


def test_a_plain_twin_has_the_weights_and_multiply_adds_of_its_residual_network(
    whole: tuple[Comparison, Path],
) -> None:
    assert len({(c.parameters, c.macs) for c in whole[0].curves}) == 1


@pytest.mark.parametrize("limit", [1, STEPS + 1, 3 * STEPS, 7 * STEPS + 1])
def test_an_interrupted_comparison_goes_on_and_ends_with_the_same_curves(
    tmp_path: Path, sources: dict[str, Any], whole: tuple[Comparison, Path], limit: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(NETWORKS, 2, tmp_path, **sources, progress=Listener(limit))
    rest = Listener()
    resumed = compare(NETWORKS, 2, tmp_path, **sources, progress=rest)
    assert rest.steps == 8 * STEPS - (limit - 1) // STEPS * STEPS
    assert without_seconds(resumed) == without_seconds(whole[0])


def test_what_is_finished_when_interrupted_can_be_read(
    tmp_path: Path, sources: dict[str, Any], whole: tuple[Comparison, Path]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(NETWORKS, 2, tmp_path, **sources, progress=Listener(4 * STEPS + 1))
    assert (tmp_path / "curves.svg").exists()
    partial = Comparison.read(tmp_path / "curves.json")
    assert without_seconds(partial) == without_seconds(whole[0])[:2]


def test_more_seeds_later_train_only_what_is_new(
    tmp_path: Path, sources: dict[str, Any], whole: tuple[Comparison, Path]
) -> None:
    compare(NETWORKS, 1, tmp_path, **sources)
    added = Listener()
    more = compare(NETWORKS, 2, tmp_path, **sources, progress=added)
    assert added.steps == 4 * STEPS
    assert without_seconds(more) == without_seconds(whole[0])


def test_another_budget_in_the_same_directory_is_refused(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    compare(NETWORKS[:1], 1, tmp_path, **sources)
    with pytest.raises(ConfigError, match="another configuration"):
        compare([replace(NETWORKS[0], epochs=3)], 1, tmp_path, **sources)


def test_without_matplotlib_nothing_is_trained_in_vain(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailableError, match="matplotlib"):
        compare(NETWORKS, 1, tmp_path, **sources)
    assert not any(tmp_path.iterdir())


def test_the_table_has_the_mean_of_the_seeds_and_every_seed(
    whole: tuple[Comparison, Path],
) -> None:
    comparison = whole[0]
    rows = final_table(comparison).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| plain20-w0.25", "| resnet20-w0.25"]
    for row, curves in zip(rows, comparison.by_network().values(), strict=True):
        errors = [c.test_error[-1] for c in curves]
        assert f"**{np.mean(errors):.2f}** ({errors[0]:.2f}, {errors[1]:.2f})" in row


@pytest.mark.slow
def test_a_deep_plain_network_learns_worse_than_a_shallow_one_and_a_deep_residual_one_does_not(
    tmp_path: Path, shipped_images: Path
) -> None:
    """The finding itself, on the shipped Fashion-MNIST images, in a few minutes on one core.

    The 10,000 images that are shipped for tests are trained on here.
    """
    images = open_images(shipped_images / "test")
    names = ("plain20", "plain56", "resnet20", "resnet56")
    recipe = TrainConfig(epochs=3, epoch_images=6400, weight_decay=1e-4, device="cpu")
    comparison = compare(
        [replace(recipe, arch=name) for name in names],
        1,
        tmp_path,
        images=images,
        test=open_images(shipped_images / "calibration"),
        spec=FASHION_MNIST,
    )
    error = {curve.network: curve.last_train_error for curve in comparison.curves}
    assert error["plain56"] > error["plain20"] + 10
    assert error["plain56"] > error["resnet56"] + 10
    assert error["resnet56"] - error["resnet20"] < (error["plain56"] - error["plain20"]) / 2


def test_epochs_of_fewer_images_draw_other_images_each_time(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch repeats no image, and the next one takes other images."""
    from resnet_edge.train import loop

    pixels = np.arange(192, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    numbered = ArrayImages(Path(), pixels, np.arange(192) % 2)
    seen: list[int] = []

    def remember(batch: Any, **_: Any) -> Any:
        seen.extend(batch[:, 0, 0, 0].tolist())
        return batch

    monkeypatch.setattr(loop, "augment", remember)
    compare(NETWORKS[:1], 1, tmp_path, **sources | {"images": numbered})
    first, second = set(seen[:96]), set(seen[96:])
    assert (len(seen), len(first), len(second)) == (192, 96, 96)
    assert first != second
