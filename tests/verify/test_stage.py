"""The verify stage on a real bundle and real images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.build.stage import BuildConfig, build
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Manifest, Record
from resnet_edge.bundle.names import EVALUATION, FLOAT_LAYERS
from resnet_edge.bundle.reference import Evaluated
from resnet_edge.bundle.sidecar import sidecar_path
from resnet_edge.catalog.targets import load_target
from resnet_edge.errors import BundleError, DataError, EngineMismatchError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.folder import FolderImages
from resnet_edge.images.opening import open_images
from resnet_edge.quantize.stage import store_float_layers
from resnet_edge.verify.candidate import Candidate, find_candidate
from resnet_edge.verify.stage import verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


@pytest.fixture
def images(shipped_images: Path) -> ArrayImages:
    """The first 400 shipped test images."""
    source = open_images(shipped_images / "test")
    assert isinstance(source, ArrayImages)
    assert source.labels is not None
    return ArrayImages(source.path, source.pixels[:400], source.labels[:400], source.class_names)


def test_the_cpu_engine_itself_is_executed_and_close_to_pytorch(
    bundle: Bundle, images: ArrayImages
) -> None:
    build(bundle, load_target("cpu"), BuildConfig("int8"))
    result = verify(bundle, find_candidate(bundle), images, max_drop=5)
    assert (result.executed, result.source, result.n) == ("engine", "pytorch", 400)
    assert result.agreement > 98
    assert result.outcome == "pass"
    assert result.drop_ci95 is not None
    assert result.drop_ci95[0] <= (result.drop_points or 0) <= result.drop_ci95[1]


def test_few_images_leave_a_tight_gate_inconclusive(bundle: Bundle, images: ArrayImages) -> None:
    result = verify(bundle, find_candidate(bundle), images, max_drop=0.5)
    assert result.outcome == "inconclusive"
    assert result.needed_n is not None
    assert result.needed_n > 400
    assert not result.passed


@pytest.fixture
def broken(bundle: Bundle) -> Candidate:
    """The float model with its classifier turned over, so that almost every class changes."""
    from onnx import numpy_helper

    from resnet_edge.graph.onnx_model import load_graph, save_graph

    candidate = find_candidate(bundle)
    model = load_graph(candidate.runnable)
    weight = next(i for i in model.graph.initializer if i.name == "fc.weight")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), "fc.weight"))
    wrong = bundle.path / "wrong.onnx"
    save_graph(model, wrong)
    return replace(candidate, runnable=wrong)


def test_a_broken_candidate_fails(bundle: Bundle, images: ArrayImages, broken: Candidate) -> None:
    assert verify(bundle, broken, images).outcome == "fail"


def test_without_labels_no_disagreement_proves_a_drop(
    bundle: Bundle, images: ArrayImages, broken: Candidate
) -> None:
    images.labels = None
    result = verify(bundle, broken, images)
    assert result.agreement < 20
    assert result.outcome == "inconclusive"
    assert not result.passed


def test_the_five_likeliest_classes_count_for_top_5(bundle: Bundle, images: ArrayImages) -> None:
    verify(bundle, find_candidate(bundle), images)
    known = Evaluated.load(bundle)
    assert known is not None
    ranked = np.argsort(-known.logits, axis=1)
    ranks = np.arange(len(images)) % 10  # every rank is the right class equally often
    images.labels = ranked[np.arange(len(images)), ranks]
    result = verify(bundle, find_candidate(bundle), images)
    assert (result.reference.top1, result.reference.top5) == pytest.approx((10, 50))
    assert result.candidate == result.reference


def test_without_labels_disagreement_bounds_the_drop(bundle: Bundle, images: ArrayImages) -> None:
    images.labels = None
    result = verify(bundle, find_candidate(bundle), images, max_drop=1)
    assert result.drop_points is None
    assert result.candidate.top1 is None
    assert result.agreement == 100
    assert result.outcome == "pass"
    assert verify(bundle, find_candidate(bundle), images, max_drop=0.1).outcome == "inconclusive"


def test_without_images_the_golden_ones_are_too_few(bundle: Bundle) -> None:
    result = verify(bundle, find_candidate(bundle), None)
    assert result.n == 32
    assert result.agreement == 100
    assert result.outcome == "inconclusive"


def test_golden_images_of_an_imported_model_do_not_claim_pytorch(
    bundle: Bundle, tmp_path: Path
) -> None:
    from resnet_edge.export.foreign.import_onnx import import_onnx

    imported = import_onnx(bundle.path / "model.onnx", tmp_path / "imported").bundle
    assert verify(imported, find_candidate(imported), None).source == "onnx"
    assert verify(bundle, find_candidate(bundle), None).source == "pytorch"


def test_images_used_for_calibration_are_refused(bundle: Bundle, shipped_images: Path) -> None:
    with pytest.raises(DataError, match="used for calibration"):
        verify(bundle, find_candidate(bundle), open_images(shipped_images / "calibration"))


def test_images_the_bake_off_chose_on_are_refused_too(bundle: Bundle, shipped_images: Path) -> None:
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.recipes import load_recipe

    source = open_images(shipped_images / "calibration")
    assert isinstance(source, ArrayImages)
    table = calibrate(bundle, source, load_recipe("auto")).table
    chosen = next(i for i in range(len(source)) if source.key(i) in table.chosen_on)
    only = ArrayImages(source.path, source.pixels[chosen : chosen + 1], None)
    with pytest.raises(DataError, match="used for calibration"):
        verify(bundle, find_candidate(bundle), only)


def test_images_that_layers_were_chosen_on_are_left_out(
    bundle: Bundle, images: ArrayImages
) -> None:
    candidate = find_candidate(bundle, precision="fp32", backend="onnxruntime")
    chosen_on = [images.key(i) for i in range(5)]
    store_float_layers(bundle, {"keep_float": [], "chosen_on": chosen_on})
    assert verify(bundle, candidate, images).n == len(images) - 5
    calibrated_again = dict(bundle.entry(FLOAT_LAYERS).inputs) | {
        "ranges": "of another calibration"
    }
    bundle.record(FLOAT_LAYERS, Record(stage="quantize", inputs=calibrated_again))
    assert verify(bundle, candidate, images).n == len(images)
    store_float_layers(
        bundle, {"keep_float": [], "chosen_on": [images.key(i) for i in range(len(images))]}
    )
    with pytest.raises(DataError, match="chosen on every image"):
        verify(bundle, candidate, images)


def test_pytorch_logits_are_kept_and_used_again(bundle: Bundle, images: ArrayImages) -> None:
    verify(bundle, find_candidate(bundle), images)
    first = bundle.sha256(EVALUATION)
    again = Bundle.open(bundle.path)
    assert verify(again, find_candidate(again), images).source == "pytorch"
    assert again.sha256(EVALUATION) == first


def test_without_the_checkpoint_the_float_onnx_is_the_reference(
    bundle: Bundle, images: ArrayImages
) -> None:
    moved = replace(bundle.model, source="else.safetensors", source_sha256="0" * 64)
    artifacts = {name: bundle.entry(name) for name in bundle.names()}
    stranded = Bundle(bundle.path, Manifest(moved, artifacts))
    result = verify(stranded, find_candidate(stranded), images)
    assert result.source == "onnx"
    assert EVALUATION not in stranded.names()


def test_recorded_logits_are_found_in_any_order(bundle: Bundle, images: ArrayImages) -> None:
    verify(bundle, find_candidate(bundle), images)
    known = Evaluated.load(bundle)
    assert known is not None
    keys = [images.key(i) for i in (7, 3, 5)]
    found = known.lookup(keys)
    assert found is not None
    assert np.array_equal(found, known.logits[[7, 3, 5]])
    assert known.lookup([*keys, "0" * 64]) is None


def test_another_precision_is_found_by_name(bundle: Bundle) -> None:
    build(bundle, load_target("cpu"), BuildConfig("int8"))
    build(bundle, load_target("cpu"), BuildConfig("fp32"))
    assert find_candidate(bundle).precision == "fp32"
    assert find_candidate(bundle, precision="int8").precision == "int8"
    with pytest.raises(BundleError, match="no fp16"):
        find_candidate(bundle, precision="fp16")


def test_an_engine_without_sidecar_is_not_loaded(bundle: Bundle) -> None:
    result = build(bundle, load_target("cpu"), BuildConfig("int8"))
    sidecar_path(result.engine).unlink()
    with pytest.raises(EngineMismatchError, match="no sidecar"):
        find_candidate(bundle, engine=result.engine)


def test_a_changed_engine_is_not_loaded(bundle: Bundle) -> None:
    result = build(bundle, load_target("cpu"), BuildConfig("int8"))
    result.engine.write_bytes(result.engine.read_bytes() + b" ")
    with pytest.raises(EngineMismatchError, match="not the file"):
        find_candidate(bundle, engine=result.engine)


def test_an_engine_of_an_earlier_calibration_is_not_taken_for_the_present_one(
    bundle: Bundle, shipped_images: Path
) -> None:
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.recipes import Recipe
    from resnet_edge.quantize.stage import quantize

    result = build(bundle, load_target("cpu"), BuildConfig("int8"))
    source = open_images(shipped_images / "calibration")
    calibrate(bundle, source, Recipe("other", "", "minmax", images=310))
    quantize(bundle, "int8-cpu")
    with pytest.raises(EngineMismatchError, match="built from another") as caught:
        find_candidate(bundle, engine=result.engine)
    assert "build again" in str(caught.value.hint)


def test_corrupt_images_are_left_out_of_both_sides(bundle: Bundle, tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    files = []
    for i in range(20):
        files.append(tmp_path / f"{i:02}.png")
        Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(files[-1])
    files[4].write_bytes(files[4].read_bytes()[:60])
    result = verify(bundle, find_candidate(bundle), FolderImages(tmp_path, tuple(files), None))
    assert (result.n, result.skipped) == (19, 1)
    assert result.agreement == 100


def test_labels_stay_with_their_images_when_some_are_skipped(
    bundle: Bundle, images: ArrayImages, tmp_path: Path
) -> None:
    from PIL import Image

    assert images.labels is not None
    files = []
    for i in range(60):
        files.append(tmp_path / f"{i:02}.png")
        Image.fromarray(images.pixels[i]).save(files[-1])
    files[4].write_bytes(files[4].read_bytes()[:60])
    names = images.class_names
    damaged = FolderImages(tmp_path, tuple(files), images.labels[:60], names)
    kept = np.delete(np.arange(60), 4)
    sound = ArrayImages(tmp_path, images.pixels[kept], images.labels[kept], names)
    found = verify(bundle, find_candidate(bundle), damaged)
    expected = verify(bundle, find_candidate(bundle), sound)
    assert (found.n, found.skipped, expected.skipped) == (59, 1, 0)
    assert expected.reference.top1 is not None
    assert expected.reference.top1 > 80
    assert (found.reference, found.candidate) == (expected.reference, expected.candidate)
