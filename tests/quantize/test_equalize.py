"""Cross-layer equalization changes no function and undoes any rescaling of channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.quantize.channels import map_channels
from resnet_edge.quantize.equalize import equalize
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.probe import channel_maxima
from resnet_edge.quantize.score import run_graph
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

require("onnxruntime")
NAMES = ["tiny", "basic", "bottleneck", "resnet20", "plain20", "uint8"]


def inputs(bundle: Bundle, count: int = 8) -> list[np.ndarray[Any, Any]]:
    spec = bundle.model.image_spec
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (count, *spec.crop, spec.channels), dtype=np.uint8)
    return [spec.to_input(pixels)]


def equalized(model: ModelProto, batches: list[np.ndarray[Any, Any]]) -> ModelProto:
    names = {i.name for i in model.graph.input}
    tensors = [t for t in place(model.graph).engine_points if t not in names]
    return equalize(model, channel_maxima(model, tensors, batches)).model


def rescaled(model: ModelProto, seed: int, decades: float) -> ModelProto:
    """Multiply every free channel group by a random factor: same function, other scales."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    channels = map_channels(copy)
    rng = np.random.default_rng(seed)
    factors = np.where(channels.free, 10 ** rng.uniform(-decades, decades, channels.size), 1.0)
    for writer in channels.writers:
        roots = channels.root(writer.ids)
        scale = np.where(channels.free[roots], factors[roots], 1.0)
        channels.multiply(writer.weight, scale, axis=0)
        if writer.bias:
            channels.multiply(writer.bias, scale, axis=0)
    for reader in channels.readers:
        roots = channels.root(reader.ids)
        channels.multiply_columns(reader, 1 / np.where(channels.free[roots], factors[roots], 1.0))
    channels.store(copy)
    return copy


@pytest.mark.parametrize("name", NAMES)
def test_the_function_stays_the_same(exported: Callable[[str], Bundle], name: str) -> None:
    bundle = exported(name)
    model, batches = load_graph(bundle.artifact("model.onnx")), inputs(bundle)
    before = run_graph(model, batches, optimise="all")
    after = run_graph(equalized(model, batches), batches, optimise="all")
    assert np.abs(after - before).max() <= 1e-3 * np.abs(before).max()


@pytest.mark.parametrize("name", NAMES)
def test_every_inner_channel_is_free_and_the_ends_are_not(
    exported: Callable[[str], Bundle], name: str
) -> None:
    model = load_graph(exported(name).artifact("model.onnx"))
    channels = map_channels(model)
    assert not channels.free[channels.root(channels.ids["logits"])].any()
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    assert not channels.free[channels.root(channels.ids[first.input[0]])].any()
    assert channels.free[channels.root(channels.ids[first.output[0]])].all()


def test_option_a_ties_the_streams_of_all_stages(exported: Callable[[str], Bundle]) -> None:
    model = load_graph(exported("resnet20").artifact("model.onnx"))
    channels = map_channels(model)
    adds = [n.output[0] for n in model.graph.node if n.op_type == "Add"]
    first, last = (set(channels.root(channels.ids[t]).tolist()) for t in (adds[0], adds[-1]))
    assert len(first) == 16
    assert len(last) == 64
    assert first < last


def test_a_projection_ends_the_group(exported: Callable[[str], Bundle]) -> None:
    model = load_graph(exported("basic").artifact("model.onnx"))
    channels = map_channels(model)
    adds = [n.output[0] for n in model.graph.node if n.op_type == "Add"]
    first, last = (set(channels.root(channels.ids[t]).tolist()) for t in (adds[0], adds[-1]))
    assert not first & last


@pytest.mark.parametrize("name", ["tiny", "bottleneck", "resnet20"])
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_rescaled_networks_end_as_the_same_network(
    exported: Callable[[str], Bundle], name: str, seed: int
) -> None:
    bundle = exported(name)
    model, batches = load_graph(bundle.artifact("model.onnx")), inputs(bundle)
    plain = equalized(model, batches)
    back = equalized(rescaled(model, seed, 1.0), batches)
    ours, theirs = place(plain.graph).engine_points[1:], place(back.graph).engine_points[1:]
    one = channel_maxima(plain, ours, batches)
    other = channel_maxima(back, theirs, batches)
    for tensor in ours:  # a factor common to all channels of a tensor does not matter
        alive = one[tensor] > 1e-6 * one[tensor].max()
        ratio = np.log(one[tensor][alive] / other[tensor][alive])
        assert np.ptp(ratio) <= (0.02 if name != "resnet20" else 0.7), tensor


def test_a_dead_channel_does_not_blow_up(exported: Callable[[str], Bundle]) -> None:
    from onnx import numpy_helper

    bundle = exported("tiny")
    model = load_graph(bundle.artifact("model.onnx"))
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    for initializer in model.graph.initializer:
        if initializer.name in conv.input[1:]:
            value = numpy_helper.to_array(initializer).copy()
            value[0] = 0
            initializer.CopyFrom(numpy_helper.from_array(value, initializer.name))
    result = equalized(model, inputs(bundle))
    for initializer in result.graph.initializer:
        value = numpy_helper.to_array(initializer)
        assert np.isfinite(value).all()
    before = run_graph(model, inputs(bundle), optimise="all")
    after = run_graph(result, inputs(bundle), optimise="all")
    assert np.allclose(before, after, atol=1e-3 * np.abs(before).max())


def test_an_operator_that_does_not_scale_freezes_its_channels() -> None:
    model = onnx_model(
        "g (float[N,2,4,4] x) => (float[N,3,4,4] y) "
        "{ a = Conv <kernel_shape=[1,1]> (x, w)  b = Sigmoid (a) "
        "y = Conv <kernel_shape=[1,1]> (b, v) }",
        w=np.ones((3, 2, 1, 1), np.float32),
        v=np.ones((3, 3, 1, 1), np.float32),
    )
    channels = map_channels(model)
    assert not channels.free[channels.root(channels.ids["a"])].any()


def test_grouped_convolutions_are_read_by_group() -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        "g (float[N,2,4,4] x) => (float[N,4,4,4] y) "
        "{ a = Conv <kernel_shape=[1,1]> (x, w)  b = Relu (a) "
        "y = Conv <kernel_shape=[1,1], group=2> (b, v) }",
        w=rng.normal(size=(6, 2, 1, 1)).astype(np.float32),
        v=rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
    )
    batches = [rng.normal(size=(4, 2, 4, 4)).astype(np.float32)]
    before = run_graph(model, batches, optimise="all")
    result = equalize(model, channel_maxima(model, ["b"], batches))
    assert result.groups == 6
    assert result.spread > 1
    assert np.allclose(before, run_graph(result.model, batches, optimise="all"), atol=1e-5)


def geometric_mean(values: np.ndarray[Any, Any]) -> float:
    return float(np.exp(np.log(values).mean()))


@pytest.mark.parametrize("case", ["unread", "dead"])
def test_a_channel_without_a_level_of_its_own_takes_that_of_its_neighbours(case: str) -> None:
    """A channel of large activations that nobody reads, or of large weights that read zeros."""
    from onnx import numpy_helper

    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 2, (4, 2, 1, 1)).astype(np.float32)
    second = rng.uniform(0.5, 2, (3, 4, 1, 1)).astype(np.float32)
    if case == "unread":
        first[1] *= 1000
        second[:, 1] = 0
    else:
        first[1] = 0
        second[:, 1] *= 1000
    model = onnx_model(
        "g (float[N,2,4,4] x) => (float[N,3,4,4] y) "
        "{ a = Conv <kernel_shape=[1,1]> (x, w)  b = Relu (a) "
        "y = Conv <kernel_shape=[1,1]> (b, v) }",
        w=first,
        v=second,
    )
    batches = [rng.uniform(0, 1, (4, 2, 4, 4)).astype(np.float32)]
    result = equalize(model, channel_maxima(model, ["b"], batches)).model
    activations = channel_maxima(result, ["b"], batches)["b"]
    [columns] = [numpy_helper.to_array(i) for i in result.graph.initializer if i.name == "v"]
    weights = np.array([geometric_mean(np.abs(c)) if c.any() else 0 for c in columns[..., 0, 0].T])
    levels, others = (activations, weights) if case == "unread" else (weights, activations)
    assert others[1] == 0
    assert levels[1] == pytest.approx(geometric_mean(np.delete(levels, 1)), rel=1e-4)
    assert np.delete(levels, 1) == pytest.approx(np.delete(others, 1), rel=1e-4)
    before = run_graph(model, batches, optimise="all")
    assert np.allclose(before, run_graph(result, batches, optimise="all"), rtol=1e-4)
