"""Ranking layers and meeting an accuracy budget on a real network with one spoilt layer."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.graph.macs import layer_macs
from resnet_edge.images.opening import open_images
from resnet_edge.quantize import search as module
from resnet_edge.quantize.bias import correct_biases
from resnet_edge.quantize.probe import layer_errors
from resnet_edge.quantize.score import HeldOut, Inputs, run_graph
from resnet_edge.quantize.search import Budget, Comparison, Labelled, compare, search
from resnet_edge.quantize.sensitivity import LayerSensitivity, rank_layers
from resnet_edge.quantize.stage import base_model, load_table

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.bundle.ranges_table import Ranges

SPOILT = "layer2.1.conv2"


@pytest.fixture(scope="module")
def bundle(flow_bundle: Path) -> Bundle:
    return Bundle.open(flow_bundle)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> ModelProto:
    return base_model(bundle)


@pytest.fixture(scope="module")
def table(bundle: Bundle, model: ModelProto) -> Ranges:
    """The calibrated ranges, but one layer's input is clipped to a thirtieth."""
    found = load_table(bundle).tensors
    conv = next(n for n in model.graph.node if n.name == SPOILT)
    spoilt = found[conv.input[0]]
    return {**found, conv.input[0]: replace(spoilt, amax=spoilt.amax / 30)}


@pytest.fixture(scope="module")
def images(bundle: Bundle, model: ModelProto, shipped_images: Path) -> Labelled:
    source = open_images(shipped_images / "test")
    assert source.labels is not None
    inputs = Inputs.read(source, bundle.model.image_spec, range(300), batch_size=50)
    return Labelled(inputs, run_graph(model, inputs, optimise="all"), source.labels[:300])


@pytest.fixture(scope="module")
def held_out(images: Labelled) -> HeldOut:
    few = replace(
        images.inputs, pixels=images.inputs.pixels[:1], indices=images.inputs.indices[:50]
    )
    return HeldOut(few, images.logits[:50])


def test_the_spoilt_layer_is_ranked_first(
    model: ModelProto, table: Ranges, held_out: HeldOut
) -> None:
    ranking = rank_layers(model, table, held_out.inputs, held_out, confirm=4)
    assert ranking[0].name == SPOILT
    assert [layer.kl is not None for layer in ranking] == [True] * 4 + [False] * (len(ranking) - 4)
    assert sum(layer.macs_share for layer in ranking) == pytest.approx(1.0)
    assert min(ranking, key=lambda layer: layer.sqnr_db).name == SPOILT


def test_the_search_keeps_just_the_spoilt_layer(
    model: ModelProto, table: Ranges, images: Labelled, held_out: HeldOut
) -> None:
    ranking = rank_layers(model, table, held_out.inputs, held_out, confirm=3)
    budget = Budget(max_drop=2.5, metric="top1")
    assert compare(model, table, images, budget, keep_float=[]).outcome != "pass"
    found = search(model, table, ranking, images, budget)
    assert found.met
    assert found.keep_float == (SPOILT,)
    assert 1.0 < found.expected_slowdown < 1.2
    assert found.steps[0].kept == 0


def test_a_budget_the_images_cannot_settle_keeps_no_layer(
    model: ModelProto, table: Ranges, images: Labelled, held_out: HeldOut
) -> None:
    ranking = rank_layers(model, table, held_out.inputs, held_out, confirm=1)
    found = search(model, table, ranking, images, Budget(0.01, "agreement"))
    assert not found.met
    assert found.keep_float == ()
    assert found.expected_slowdown == 1
    assert [step.kept for step in found.steps] == [0, len(ranking)]
    assert found.steps[-1].comparison.drop_points == 0
    assert found.steps[-1].comparison.needed_n is not None


LAYERS = 54
MOST = 2 * ceil(log2(LAYERS)) + 2  # steps of doubling and of bisection, none in FP16, and all


@pytest.mark.parametrize("needed", range(LAYERS + 1))
def test_the_shortest_prefix_that_meets_the_budget_is_found_by_bisection(
    monkeypatch: pytest.MonkeyPatch, needed: int
) -> None:
    ranking = [LayerSensitivity(f"layer{i}", 30, None, 1, 1 / LAYERS) for i in range(LAYERS)]
    tried: list[int] = []

    def judge(*_: Any, keep_float: list[str]) -> Comparison:
        assert keep_float == [layer.name for layer in ranking[: len(keep_float)]]
        tried.append(len(keep_float))
        return Comparison(9, 0.0, 0.0, "pass" if tried[-1] >= needed else "fail", None)

    monkeypatch.setattr(module, "compare", judge)
    nothing: Any = None
    found = search(nothing, nothing, ranking, nothing, Budget(1.0, "agreement"))
    assert found.met
    assert list(found.keep_float) == [layer.name for layer in ranking[:needed]]
    assert found.macs_share == pytest.approx(needed / LAYERS)
    assert len(tried) == len(set(tried)) <= MOST
    assert [step.kept for step in found.steps] == sorted(tried)


def test_multiply_adds_of_the_graph_are_those_of_the_network(
    bundle: Bundle, model: ModelProto
) -> None:
    assert sum(layer_macs(model).values()) == bundle.model.macs


def test_bias_correction_removes_the_mean_error_of_every_layer(
    model: ModelProto, table: Ranges, bundle: Bundle, held_out: HeldOut
) -> None:
    from resnet_edge.quantize.placement import place

    errors = layer_errors(model, place(model.graph), table, held_out.inputs)
    corrected = correct_biases(model, errors)
    weights = {i.name for i in model.graph.initializer if i.name.endswith("weight")}
    for before, after in zip(model.graph.initializer, corrected.graph.initializer, strict=True):
        assert (before == after) == (before.name in weights or not before.name.endswith("bias"))
    shift = errors["fc"].bias
    assert np.abs(shift).max() > 0
    fc = next(n for n in corrected.graph.node if n.name == "fc")
    from onnx import numpy_helper

    arrays = {i.name: numpy_helper.to_array(i) for i in corrected.graph.initializer}
    old = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert np.allclose(arrays[fc.input[2]], old[fc.input[2]] - shift, atol=1e-6)
