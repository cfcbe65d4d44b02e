"""The bake-off keeps what measured best on images that were not calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resnet_edge.bundle.names import MODEL
from resnet_edge.calibrate import auto
from resnet_edge.calibrate.auto import FoundRanges, bake_off, split
from resnet_edge.calibrate.ranges import METHODS
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.images.opening import open_images
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

require("onnxruntime")
NETWORKS = ["tiny", "basic", "bottleneck", "uint8"]  # some gain by each change, some lose


def run(bundle: Bundle, images: Path) -> FoundRanges:
    """Choose on 32 images for ranges from 64 others."""
    return bake_off(
        load_graph(bundle.artifact(MODEL)),
        open_images(images / "calibration"),
        bundle.model.image_spec,
        calibrate_on=range(64),
        choose_on=range(64, 96),
    )


@pytest.fixture(params=NETWORKS)
def result(
    request: pytest.FixtureRequest, exported: Callable[[str], Bundle], shipped_images: Path
) -> FoundRanges:
    return run(exported(request.param), shipped_images)


def test_the_two_best_estimators_of_the_first_round_are_compared_on_all_images(
    result: FoundRanges,
) -> None:
    first, finalists = result.trials[2:-3], result.trials[-3:-1]
    assert [trial.method for trial in first] == list(METHODS)
    assert {trial.images for trial in first} == {8}
    assert {trial.images for trial in finalists} == {32}
    ranked = sorted(first, key=lambda trial: trial.score.kl)
    assert [trial.method for trial in finalists] == [trial.method for trial in ranked[:2]]
    best = min(finalists, key=lambda trial: trial.score.kl)
    assert result.method == best.method
    for name, found in result.ranges.items():
        assert found.amax == found.estimates[best.method], name


def test_a_change_is_kept_only_if_it_lowers_the_divergence_by_a_tenth(result: FoundRanges) -> None:
    plain, equalized, corrected = (result.trials[i] for i in (0, 1, -1))
    assert (plain.equalized, equalized.equalized, corrected.bias_corrected) == (False, True, True)
    helps = equalized.score.kl < 0.9 * plain.score.kl
    assert {trial.equalized for trial in result.trials[2:]} == {helps}
    best = min(result.trials[-3:-1], key=lambda trial: trial.score.kl)
    keep = corrected.score.kl < 0.9 * best.score.kl
    [chosen] = [trial for trial in result.trials if trial.chosen]
    assert chosen.bias_corrected == keep
    assert chosen.method == best.method
    assert result.changed == (helps or keep)


def test_a_correction_of_biases_that_makes_it_worse_is_dropped(
    exported: Callable[[str], Bundle], shipped_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: ModelProto, _: Any) -> ModelProto:
        spoilt = onnx.ModelProto()
        spoilt.CopyFrom(model)
        bias = next(i for i in spoilt.graph.initializer if i.name == "fc.bias")
        shift = np.arange(10, dtype=np.float32)
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + shift, "fc.bias"))
        return spoilt

    monkeypatch.setattr(auto, "correct_biases", spoil)
    bundle = exported("bottleneck")
    result = run(bundle, shipped_images)
    assert result.trials[-1].score.kl > 100 * result.trials[-2].score.kl
    assert not any(trial.bias_corrected for trial in result.trials if trial.chosen)
    given = {i.name: i for i in load_graph(bundle.artifact(MODEL)).graph.initializer}
    kept = {i.name: i for i in result.model.graph.initializer}
    assert kept["fc.bias"] == given["fc.bias"]


@pytest.mark.parametrize(
    ("images", "parts"),
    [(8, (6, 2)), (100, (75, 25)), (256, (192, 64)), (400, (256, 64))],
    ids=["eight", "a hundred", "as many as wanted", "more than needed"],
)
def test_at_most_a_quarter_of_the_images_is_held_out(images: int, parts: tuple[int, int]) -> None:
    calibrate_on, choose_on = split([f"{i:04}" for i in range(images)], 256, 64)
    assert (len(calibrate_on), len(choose_on)) == parts
    assert choose_on == list(range(len(choose_on)))  # the smallest hashes
