"""quantize --max-drop and the bake-off on the shipped network and its rescaled twin."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import BASE, FLOAT_LAYERS, TABLE
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.calibrate.auto import split
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import load_recipe
from resnet_edge.catalog.shipped import CHECKPOINT, find
from resnet_edge.errors import ConfigError, DataError
from resnet_edge.export.stage import export
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images
from resnet_edge.models.checkpoint import load_model, read_checkpoint, save_checkpoint
from resnet_edge.quantize.budget import _labelled, meet_budget, sensitivity
from resnet_edge.quantize.search import Budget
from resnet_edge.quantize.stage import base_model, float_layers, layers_chosen_on, quantize
from resnet_edge.verify.candidate import Candidate
from resnet_edge.verify.stage import verify
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

torch = require("torch")


@pytest.fixture(scope="module")
def images(shipped_images: Path) -> ArrayImages:
    source = open_images(shipped_images / "test")
    assert isinstance(source, ArrayImages)
    return source


def few(source: ArrayImages, count: int) -> ArrayImages:
    assert source.labels is not None
    return ArrayImages(
        source.path, source.pixels[:count], source.labels[:count], source.class_names
    )


@pytest.fixture(scope="module")
def outlier_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped ResNet-20 with its channels rescaled by up to 100 x: the same FP32 function."""
    folder = tmp_path_factory.mktemp("outlier")
    checkpoint = read_checkpoint(find(CHECKPOINT))
    model = load_model(checkpoint)
    generator = torch.Generator().manual_seed(1)

    def factors(count: int) -> torch.Tensor:
        return 10 ** (2 * torch.rand(count, generator=generator))

    with torch.no_grad():
        stream = factors(16)
        model.bn1.weight *= stream
        model.bn1.bias *= stream
        for name in model.stage_names:
            for block in model.get_submodule(name):
                inner = factors(block.conv1.out_channels)
                block.bn1.weight *= inner
                block.bn1.bias *= inner
                block.conv2.weight /= inner[None, :, None, None]
                block.conv1.weight /= stream[None, :, None, None]
                if block.conv2.out_channels > len(stream):
                    wider = factors(block.conv2.out_channels)
                    front = (len(wider) - len(stream)) // 2
                    wider[front : front + len(stream)] = stream
                    stream = wider
                block.bn2.weight *= stream
                block.bn2.bias *= stream
        model.fc.weight /= stream[None]
    path = folder / "outlier.safetensors"
    save_checkpoint(
        path, model, name="resnet20", image_spec=checkpoint.image_spec, labels=checkpoint.labels,
        provenance={},
    )  # fmt: skip
    return export(path, folder / "bundle").bundle.path


def int8_drop(bundle: Bundle, images: ArrayImages) -> float:
    path = quantize(bundle, "int8").path
    candidate = Candidate("tensorrt_rtx", "int8", "rtx-4090", path, path, "graph")
    result = verify(bundle, candidate, images, max_drop=0.5)
    assert result.drop_points is not None
    return result.drop_points


def test_the_bake_off_brings_a_rescaled_network_back(
    outlier_bundle: Path, shipped_images: Path, images: ArrayImages
) -> None:
    bundle, calibration = Bundle.open(outlier_bundle), open_images(shipped_images / "calibration")
    calibrate(bundle, calibration, load_recipe("mse"))
    plain = int8_drop(bundle, images)
    calibrate(bundle, calibration, load_recipe("auto"))
    assert plain > 1.5
    assert int8_drop(bundle, images) < 0.5
    table = RangesTable.load(bundle.artifact(TABLE))
    assert BASE in bundle.names()
    chosen = [trial for trial in table.trials if trial["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["equalized"]
    assert not set(table.chosen_on) & set(table.images)


def test_the_bake_off_is_repeatable_and_cached(bundle_copy: Path, shipped_images: Path) -> None:
    bundle, source = Bundle.open(bundle_copy), open_images(shipped_images / "calibration")
    first = calibrate(bundle, source, load_recipe("auto"))
    assert calibrate(Bundle.open(bundle_copy), source, load_recipe("auto")).cached
    before = bundle.sha256(TABLE)
    bundle.file(TABLE).unlink()
    again = calibrate(bundle, source, load_recipe("auto"))
    assert not again.cached
    assert again.table == first.table
    assert bundle.sha256(TABLE) == before


def test_too_few_images_to_choose_on_fall_back_to_one_estimator(
    bundle_copy: Path, shipped_images: Path
) -> None:
    bundle = Bundle.open(bundle_copy)
    source = open_images(shipped_images / "calibration")
    assert isinstance(source, ArrayImages)
    result = calibrate(bundle, few(source, 5), load_recipe("auto"))
    assert result.table.trials == ()
    assert all(r.amax == r.estimates["mse"] for r in result.table.tensors.values())


def test_images_are_split_by_content_whatever_their_order() -> None:
    keys = [f"{i * 7919 % 1000:04}" for i in range(400)]
    calibrate_on, choose_on = split(keys, 256, 64)
    shuffled = list(reversed(keys))
    other_calibrate, other_choose = split(shuffled, 256, 64)
    assert {keys[i] for i in choose_on} == {shuffled[i] for i in other_choose}
    assert {keys[i] for i in calibrate_on} == {shuffled[i] for i in other_calibrate}
    assert not set(calibrate_on) & set(choose_on)
    assert (len(calibrate_on), len(choose_on)) == (256, 64)


def test_a_budget_met_by_full_int8_keeps_no_layer_and_is_proven(
    bundle_copy: Path, images: ArrayImages
) -> None:
    bundle = Bundle.open(bundle_copy)
    result = meet_budget(bundle, few(images, 3000), images.labels, Budget(2.0, "top1"))
    assert result.passed
    assert result.found.keep_float == ()
    assert result.proof.n > 1500
    assert json.loads(bundle.artifact(FLOAT_LAYERS).read_text())["passed"]
    assert result.proof.n + len(layers_chosen_on(bundle)) == 3000
    assert {layer.name for layer in result.ranking} == {
        n.name for n in base_model(bundle).graph.node if n.op_type in ("Conv", "Gemm")
    }


def test_no_image_of_the_calibration_is_chosen_on_or_proven_with(
    bundle_copy: Path, images: ArrayImages, shipped_images: Path
) -> None:
    bundle = Bundle.open(bundle_copy)
    calibration = open_images(shipped_images / "calibration")
    assert isinstance(calibration, ArrayImages)
    seen, unseen = few(calibration, 100), few(images, 500)
    used = calibrate(bundle, seen, load_recipe("auto")).table.used
    assert len(used) == 100  # those it chose on among them
    pixels = np.concatenate([seen.pixels, unseen.pixels])
    labels = np.concatenate([seen.labels, unseen.labels])
    mixed = ArrayImages(images.path, pixels, labels, images.class_names)
    result = meet_budget(bundle, mixed, labels, Budget(5.0, "top1"))
    chosen_on = layers_chosen_on(bundle)
    assert not chosen_on & set(used)
    assert len(chosen_on) == 250
    assert {step.comparison.n for step in result.found.steps} == {250}
    assert result.proof.n == 250
    with pytest.raises(DataError, match="leaves 0 images after calibration"):
        meet_budget(bundle, seen, seen.labels, Budget(5.0, "top1"))
    with pytest.raises(DataError, match="were calibrated on"):
        sensitivity(bundle, seen)


def test_kept_layers_are_float_in_every_graph_until_the_next_calibration(
    bundle_copy: Path, images: ArrayImages, shipped_images: Path
) -> None:
    from resnet_edge.graph.onnx_model import load_graph

    bundle = Bundle.open(bundle_copy)
    result = meet_budget(bundle, few(images, 1500), images.labels, Budget(0.4, "agreement"))
    kept = result.found.keep_float
    assert kept
    assert result.found.met
    assert float_layers(bundle) == kept
    for graph in ("int8", "int8-fp16", "int8-cpu"):
        model = load_graph(quantize(bundle, graph).path)
        nodes = {n.name: n for n in model.graph.node}
        float_weights = {i.name for i in model.graph.initializer if "quantized" not in i.name}
        assert all(nodes[name].input[1] in float_weights for name in kept)
    calibrate(bundle, open_images(shipped_images / "calibration"), load_recipe("minmax"))
    assert float_layers(bundle) == ()


def test_memory_does_not_grow_with_the_images_that_prove(
    bundle_copy: Path, images: ArrayImages
) -> None:
    bundle = Bundle.open(bundle_copy)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            held = _labelled(bundle, base_model(bundle), images, images.labels, range(count))
            assert sum(len(batch) for batch in held.inputs) == len(held.logits) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1200) - peak(200) < 1000 * 28 * 28 / 2  # half of the pixels


def test_too_few_images_for_the_budget_leave_full_int8_and_no_proof(
    bundle_copy: Path, images: ArrayImages
) -> None:
    bundle = Bundle.open(bundle_copy)
    result = meet_budget(bundle, few(images, 60), images.labels, Budget(0.05, "top1"))
    assert (result.passed, result.found.met, result.proof.outcome) == (False, False, "inconclusive")
    assert float_layers(bundle) == result.found.keep_float == ()


def test_what_cannot_be_judged_is_refused(bundle_copy: Path, images: ArrayImages) -> None:
    bundle = Bundle.open(bundle_copy)
    with pytest.raises(ConfigError, match="no labels"):
        meet_budget(bundle, few(images, 50), None, Budget(0.5, "top1"))
    with pytest.raises(DataError, match="after calibration"):
        meet_budget(bundle, few(images, 2), np.zeros(2, np.int64), Budget(0.5, "top1"))
