from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.backends.evaluate import run_all
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.tensorrt.calibration_cache import read_cache
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import CACHE, MODEL, TABLE
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.calibrate.derived_ranges import derive_ranges
from resnet_edge.calibrate.ranges import METHODS
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import Recipe
from resnet_edge.errors import CalibrationError, DataError
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.images.arrays import ArrayImages, ArrayInputs, RandomInputs
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.folder import FolderImages
from resnet_edge.images.opening import open_calibration, open_images
from resnet_edge.quantize.placement import place
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable

require("onnxruntime")

RECIPE = Recipe("test", "few images", "mse", images=24)


@pytest.fixture
def bundle(exported: Callable[[str], Bundle], tmp_path: Path) -> Bundle:
    """A bundle without a calibration, for one test alone."""
    return Bundle.open(Path(shutil.copytree(exported("tiny").path, tmp_path / "bundle")))


@pytest.fixture(scope="module")
def images(shipped_images: Path) -> ArrayImages:
    source = open_images(shipped_images / "calibration")
    assert isinstance(source, ArrayImages)
    return source


def test_the_bundle_gets_a_table_and_a_cache_of_the_same_ranges(
    bundle: Bundle, images: ArrayImages
) -> None:
    result = calibrate(bundle, images, RECIPE)
    reopened = Bundle.open(bundle.path)
    assert RangesTable.load(reopened.artifact(TABLE)) == result.table
    graph = load_graph(bundle.artifact(MODEL)).graph
    cache = read_cache(reopened.artifact(CACHE))
    assert cache == pytest.approx(derive_ranges(graph, result.table.amax), rel=1e-6)
    assert cache.keys() > result.table.amax.keys()
    assert tuple(result.table.tensors) == place(graph).tensors


def test_the_table_says_what_it_was_made_from(bundle: Bundle, images: ArrayImages) -> None:
    table = calibrate(bundle, images, RECIPE).table
    assert table.model_sha256 == bundle.sha256(MODEL)
    assert table.recipe == RECIPE.to_json()
    assert table.skipped == 0
    positions = [[images.key(i) for i in range(len(images))].index(key) for key in table.images]
    assert len(set(positions)) == 24
    assert (positions[0], positions[-1]) == (0, len(images) - 1)
    steps = np.diff(positions)
    assert steps.max() - steps.min() <= 1, "the images are not spread evenly"
    entry = bundle.entry(TABLE)
    assert entry.stage == "calibrate"
    assert entry.config["image_spec"] == bundle.model.image_spec.to_json()


def test_a_bake_off_that_was_left_out_is_recorded_as_what_was_done_instead(
    bundle: Bundle, images: ArrayImages
) -> None:
    few = ArrayImages(Path("few.npy"), np.stack([np.asarray(images.load(i)) for i in range(7)]))
    table = calibrate(bundle, few, replace(RECIPE, name="auto", method="auto")).table
    assert (table.recipe["name"], table.recipe["method"]) == ("auto", "mse")
    assert table.trials == ()
    assert calibrate(bundle, few, replace(RECIPE, name="auto", method="auto")).cached


@pytest.mark.parametrize("method", METHODS)
def test_the_recipe_chooses_among_all_estimates(
    bundle: Bundle, images: ArrayImages, method: str
) -> None:
    table = calibrate(bundle, images, replace(RECIPE, method=method, percent=99.0)).table
    for found in table.tensors.values():
        assert set(found.estimates) == set(METHODS)
        assert found.amax == found.estimates[method]
        assert found.estimates["minmax"] == max(abs(found.min), abs(found.max))
        assert found.estimates["percentile"] < found.estimates["minmax"]


def test_a_second_call_takes_the_ranges_from_the_bundle(
    bundle: Bundle, images: ArrayImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrate(bundle, images, RECIPE)
    monkeypatch.setattr("resnet_edge.calibrate.stage.collect", None)
    again = calibrate(Bundle.open(bundle.path), images, RECIPE)
    assert (first.cached, again.cached) == (False, True)
    assert again.table == first.table


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, method="minmax"),
        replace(RECIPE, percent=99.9),
        replace(RECIPE, images=25),
    ],
    ids=["method", "percent", "images"],
)
def test_another_recipe_calibrates_again(
    bundle: Bundle, images: ArrayImages, recipe: Recipe
) -> None:
    calibrate(bundle, images, RECIPE)
    assert not calibrate(bundle, images, recipe).cached
    assert RangesTable.load(bundle.artifact(TABLE)).recipe == recipe.to_json()


def test_other_images_calibrate_again(bundle: Bundle, images: ArrayImages) -> None:
    before = calibrate(bundle, images, RECIPE).table
    pixels = images.pixels.copy()
    pixels[0] = 255 - pixels[0]
    after = calibrate(bundle, replace(images, pixels=pixels), RECIPE)
    assert not after.cached
    assert after.table.images[1:] == before.images[1:]
    assert after.table.images[0] != before.images[0]


def test_a_damaged_table_is_made_again(bundle: Bundle, images: ArrayImages) -> None:
    before = calibrate(bundle, images, RECIPE).table
    bundle.file(TABLE).write_text("{}")
    again = calibrate(bundle, images, RECIPE)
    assert not again.cached
    assert again.table == before


def test_a_lost_cache_is_made_again(bundle: Bundle, images: ArrayImages) -> None:
    calibrate(bundle, images, RECIPE)
    content = bundle.artifact(CACHE).read_text()
    bundle.file(CACHE).unlink()
    calibrate(bundle, images, RECIPE)
    assert bundle.artifact(CACHE).read_text() == content


@pytest.mark.parametrize(("count", "warned"), [(20, True), (299, True), (300, False)])
def test_fewer_than_300_images_are_warned_about(
    bundle: Bundle,
    images: ArrayImages,
    caplog: pytest.LogCaptureFixture,
    count: int,
    warned: bool,
) -> None:
    few = replace(images, pixels=images.pixels[:count], labels=None)
    with caplog.at_level(logging.WARNING):
        table = calibrate(bundle, few, replace(RECIPE, images=512)).table
    assert len(table.images) == count
    assert (f"only {count} calibration images" in caplog.text) == warned
    assert bool(caplog.records) == warned


def test_broken_images_are_counted_and_not_recorded(
    bundle: Bundle, images: ArrayImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = []
    for i in range(24):
        files.append(tmp_path / f"{i:02d}.png")
        images.load(i).save(files[-1])
    files[3].write_bytes(b"not an image")
    folder = FolderImages(tmp_path, tuple(files), labels=None)
    table = calibrate(bundle, folder, RECIPE).table
    assert table.skipped == 1
    assert table.images == tuple(folder.key(i) for i in range(24) if i != 3)
    assert f"1 of 24 images could not be decoded and were skipped, the first is {files[3]}" in (
        caplog.text
    )


def test_network_inputs_give_the_ranges_of_the_images_they_were_made_from(
    bundle: Bundle, images: ArrayImages, tmp_path: Path
) -> None:
    spec, other = bundle.model.image_spec, Path(shutil.copytree(bundle.path, tmp_path / "other"))
    (batch,) = ImageBatches(images, spec, 24, range(24))
    np.save(tmp_path / "inputs.npy", spec.to_input(batch.pixels))
    np.save(tmp_path / "images.npy", images.pixels[:24])
    inputs = calibrate(bundle, open_calibration(tmp_path / "inputs.npy"), RECIPE).table
    plain = calibrate(Bundle.open(other), open_calibration(tmp_path / "images.npy"), RECIPE).table
    assert inputs.tensors == plain.tensors
    assert len(inputs.images) == 24
    assert plain.images == tuple(images.key(i) for i in range(24))


@pytest.mark.parametrize(
    ("network", "shape", "complaint"),
    [
        ("tiny", (2, 3, 8, 8), "inputs of 3 x 8 x 8, the model takes 1 x 8 x 8"),
        ("tiny", (2, 8, 8, 1), "inputs of 8 x 8 x 1, the model takes 1 x 8 x 8"),
        ("uint8", (2, 3, 32, 32), "the model normalises raw uint8 images itself"),
    ],
)
def test_network_inputs_the_model_does_not_take_are_refused(
    exported: Callable[[str], Bundle],
    tmp_path: Path,
    network: str,
    shape: tuple[int, ...],
    complaint: str,
) -> None:
    inputs = ArrayInputs(tmp_path / "x.npy", np.zeros(shape, np.float32))
    bundle = Bundle.open(Path(shutil.copytree(exported(network).path, tmp_path / "bundle")))
    with pytest.raises(DataError, match=complaint) as caught:
        calibrate(bundle, inputs, RECIPE)
    assert "N x" in (caught.value.hint or "")
    assert TABLE not in bundle.names()


def test_network_inputs_that_are_not_finite_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    values = np.zeros((4, 1, 8, 8), np.float32)
    values[3, 0, 2, 2] = np.nan
    with pytest.raises(CalibrationError, match="tensor input: 1 of"):
        calibrate(bundle, ArrayInputs(tmp_path / "x.npy", values), RECIPE)


def test_random_inputs_are_warned_about_and_recorded(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    source = RandomInputs(bundle.model.image_spec.input_shape, 40)
    with caplog.at_level(logging.WARNING):
        table = calibrate(bundle, source, RECIPE).table
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "RANDOM INPUTS" in caplog.text
    loaded = RangesTable.load(bundle.artifact(TABLE))
    assert loaded == table
    assert (loaded.random, loaded.images) == (24, ())
    assert loaded.recipe == {**RECIPE.to_json(), "random": 24}
    assert 3 < loaded.tensors["input"].max < 6


def test_random_inputs_are_the_same_every_time_and_never_taken_for_images(
    bundle: Bundle, images: ArrayImages
) -> None:
    source = RandomInputs(bundle.model.image_spec.input_shape, 24)
    first = calibrate(bundle, source, RECIPE)
    assert calibrate(bundle, source, RECIPE).cached
    assert not calibrate(bundle, images, RECIPE).cached
    again = calibrate(bundle, source, RECIPE)
    assert not again.cached
    assert again.table == first.table
    other = calibrate(bundle, replace(source, seed=1), RECIPE)
    assert not other.cached
    assert other.table.tensors != first.table.tensors


def test_the_table_says_how_much_noise_each_estimate_means(
    bundle: Bundle, images: ArrayImages
) -> None:
    table = calibrate(bundle, images, replace(RECIPE, method="minmax")).table
    x = bundle.model.image_spec.to_input(
        np.stack([bundle.model.image_spec.pixels(images.load(i)) for i in range(len(images))
                  if images.key(i) in table.images])
    )  # fmt: skip
    for found in table.tensors.values():
        assert list(found.sqnr) == list(METHODS)
    for method, amax in table.tensors["input"].estimates.items():
        scale = amax / 127
        noise = np.mean((x - np.clip(np.rint(x / scale), -127, 127) * scale) ** 2)
        measured = 10 * np.log10(np.mean(x**2) / noise)
        assert table.tensors["input"].sqnr[method] == pytest.approx(measured, abs=1.5)


def test_the_bake_off_reports_top_1_where_the_images_have_labels(
    bundle: Bundle, images: ArrayImages
) -> None:
    recipe = replace(RECIPE, method="auto", images=64)
    with OnnxRuntimeSession(bundle.artifact(MODEL)) as session:
        logits, _, _ = run_all(session, images, bundle.model.image_spec)
    own = replace(images, labels=logits.argmax(1).astype(np.int64))
    trials = calibrate(bundle, own, recipe).table.trials
    assert trials
    for trial in trials:  # labelled by the float model itself, right is what agrees with it
        assert trial["top1"] == trial["agreement"]
    for source in (
        replace(images, labels=None, class_names=None),
        replace(images, class_names=images.class_names[:3] if images.class_names else None),
    ):
        (bundle.path / TABLE).unlink()
        trials = calibrate(Bundle.open(bundle.path), source, recipe).table.trials
        assert {trial["top1"] for trial in trials} == {None}


@pytest.mark.parametrize(("calibrated", "looked", "first_round"), [(48, 4, 4), (96, 8, 8)])
def test_a_bake_off_of_few_images_is_a_smaller_one(
    bundle: Bundle, images: ArrayImages, calibrated: int, looked: int, first_round: int
) -> None:
    recipe = Recipe("test", "few images", "auto", images=calibrated)
    table = calibrate(bundle, images, recipe).table
    assert len(table.images) == calibrated
    equalization, estimators = table.trials[:2], table.trials[2:7]
    assert {trial["method"] for trial in equalization} == {f"mse on {looked} images"}
    assert {trial["images"] for trial in (*equalization, *estimators)} == {first_round}
    assert len({trial["method"] for trial in estimators}) == 5


def test_labels_of_another_model_are_left_out_of_the_bake_off_and_named(
    bundle: Bundle, images: ArrayImages, caplog: pytest.LogCaptureFixture
) -> None:
    few = replace(
        images,
        pixels=images.pixels[:40],
        labels=np.arange(40) % 3,
        class_names=("cat", "dog", "eel"),
    )
    table = calibrate(bundle, few, Recipe("test", "few images", "auto", images=24)).table
    assert {trial["top1"] for trial in table.trials} == {None}
    (message,) = [r.getMessage() for r in caplog.records if "top-1" in r.getMessage()]
    assert "3 class folders, the model has 10 classes" in message
