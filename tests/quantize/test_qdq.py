from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resnet_edge.backends.evaluate import run_all
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL, TABLE
from resnet_edge.bundle.ranges_table import Ranges, RangesTable, TensorRange
from resnet_edge.bundle.reference import Golden
from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex, attribute
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.relabel import opset_of
from resnet_edge.graph.stand_in import stand_in
from resnet_edge.images.opening import open_images
from resnet_edge.quantize.fp16 import to_fp16
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import Weights, engine_graph, twin_graph
from resnet_edge.quantize.weights import quantize_weight, weight_scales
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto, NodeProto


onnxruntime = require("onnxruntime")
Array = np.ndarray[Any, Any]
NETWORKS = ("tiny", "basic", "bottleneck", "uint8", "resnet20", "plain20")
PASSES_ON = ("MaxPool", "Slice", "Pad", "Reshape")
KINDS = ("int8", "int8 weights", "fp16")


def convert(model: ModelProto, table: Ranges, kind: str) -> ModelProto:
    if kind == "twin":
        return twin_graph(model, place(model.graph), table)
    model = to_fp16(model) if kind == "fp16" else model
    weights: Weights = "float" if kind == "int8" else "int8"
    return engine_graph(model, place(model.graph), table, weights=weights)


def make(bundle: Bundle, kind: str) -> ModelProto:
    table = RangesTable.load(bundle.artifact(TABLE)).tensors
    return convert(load_graph(bundle.artifact(MODEL)), table, kind)


@pytest.fixture(params=NETWORKS)
def bundle(request: pytest.FixtureRequest, calibrated: Callable[[str], Bundle]) -> Bundle:
    return calibrated(request.param)


def nodes(model: ModelProto, *types: str) -> list[NodeProto]:
    return [n for n in model.graph.node if n.op_type in types]


def constant(index: GraphIndex, name: str) -> Array:
    value = index.constant(name)
    assert value is not None
    return value


def conv(weight: Array, bias: Array | None = None) -> ModelProto:
    """One convolution from ``x`` to ``y`` without padding."""
    channels = weight.shape[1]
    inputs = "x, weight" if bias is None else "x, weight, bias"
    constants = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    text = (
        f"g (float[n,{channels},h,w] x) => (float[n,{len(weight)},h,w] y) {{ y = Conv({inputs}) }}"
    )
    return onnx_model(text, **constants)


def ranges(**amax: float) -> Ranges:
    return {name: TensorRange(value, -value, value, {}) for name, value in amax.items()}


def run(model: ModelProto, x: Array) -> Array:
    onnx.checker.check_model(model, full_check=True)
    with OnnxRuntimeSession(model, optimise="none") as session:
        return next(iter(session.run({session.inputs[0].name: x}).values()))


def fake_quantize(x: Array, amax: float) -> Array:
    scale = np.float32(amax / 127)
    return (np.clip(np.rint(x / scale), -128, 127) * scale).astype(np.float32)


def test_rounded_weights_compute_bit_for_bit_what_the_quantized_ones_do(bundle: Bundle) -> None:
    table = RangesTable.load(bundle.artifact(TABLE)).tensors
    model = load_graph(bundle.artifact(MODEL))
    pixels = Golden.load(bundle).pixels[:4]
    feed = bundle.model.image_spec.to_input(pixels)
    ways: tuple[Weights, ...] = ("float", "int8", "rounded")
    logits = [run(engine_graph(model, place(model.graph), table, weights=w), feed) for w in ways]
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(logits[0], logits[2])


def test_reduced_weights_leave_room_for_the_sum_of_two_products(bundle: Bundle) -> None:
    table, model = (
        RangesTable.load(bundle.artifact(TABLE)).tensors,
        load_graph(bundle.artifact(MODEL)),
    )
    placement = place(model.graph)
    floats = GraphIndex(model.graph)
    for reduce, qmax in ((False, 127), (True, 64)):
        graph = twin_graph(model, placement, table, reduce_range=reduce)
        index, largest = GraphIndex(graph.graph), []
        for layer in nodes(graph, "Conv", "Gemm"):
            dq = index.producer[layer.input[1]]
            steps, scale = constant(index, dq.input[0]), constant(index, dq.input[1])
            assert steps.dtype == np.int8
            largest.append(int(np.abs(steps.astype(int)).max()))
            shaped = scale.reshape(-1, *[1] * (steps.ndim - 1))
            weight = constant(floats, layer.input[1].removesuffix("_dequantized"))
            assert (np.abs(steps * shaped - weight) <= 0.5001 * shaped).all()
        assert max(largest) == qmax
    assert 2 * 255 * 64 <= np.iinfo(np.int16).max < 2 * 255 * 127


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_is_symmetric_and_has_positive_scales(bundle: Bundle, kind: str) -> None:
    model = make(bundle, kind)
    index = GraphIndex(model.graph)
    dtype = np.float16 if kind == "fp16" else np.float32
    pairs = nodes(model, "QuantizeLinear", "DequantizeLinear")
    for node in pairs:
        scale, zero = constant(index, node.input[1]), constant(index, node.input[2])
        assert scale.dtype == dtype
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        assert zero.dtype == np.int8
        assert not zero.any()
        assert zero.shape == scale.shape
    weights = len(nodes(model, "Conv", "Gemm"))
    activations = len(place(load_graph(bundle.artifact(MODEL)).graph).engine_points)
    assert len(nodes(model, "DequantizeLinear")) == activations + weights
    stored = 0 if kind == "int8" else weights
    assert len(nodes(model, "QuantizeLinear")) == activations + weights - stored


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_quantized_per_output_channel_and_biases_stay_float(
    bundle: Bundle, kind: str
) -> None:
    model = make(bundle, kind)
    index = GraphIndex(model.graph)
    for node in nodes(model, "Conv", "Gemm"):
        dequantize = index.producer[node.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        assert attribute(dequantize, "axis") == 0
        stored = index.constant(dequantize.input[0])
        if kind == "int8":  # weights stay float in front of their own Q
            quantize = index.producer[dequantize.input[0]]
            assert attribute(quantize, "axis") == 0
            stored = constant(index, quantize.input[0])
        assert stored is not None
        assert stored.dtype == (np.float32 if kind == "int8" else np.int8)
        assert len(constant(index, dequantize.input[1])) == len(stored)
        bias = constant(index, node.input[2])
        assert bias.dtype == (np.float16 if kind == "fp16" else np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_read_integers_and_the_sum_after_a_convolution_can_fuse(
    bundle: Bundle, kind: str
) -> None:
    model = make(bundle, kind)
    index = GraphIndex(model.graph)

    def source(tensor: str) -> str:
        while tensor in index.producer and index.producer[tensor].op_type in PASSES_ON:
            tensor = index.producer[tensor].input[0]
        return index.producer[tensor].op_type

    for node in nodes(model, "Conv", "Gemm", "GlobalAveragePool"):
        assert source(node.input[0]) == "DequantizeLinear"
    for node in nodes(model, "Add"):
        assert sorted(source(t) for t in node.input) == ["Conv", "DequantizeLinear"]
        for tensor in node.input:
            if index.producer[tensor].op_type == "Conv":
                assert index.only_consumer(tensor) == node
    for node in nodes(model, "MaxPool"):
        assert index.producer[node.input[0]].op_type == "DequantizeLinear"
    for tensor in {n.input[0] for n in nodes(model, "QuantizeLinear")}:
        assert len([n for n in index.consumers[tensor] if n.op_type == "QuantizeLinear"]) == 1


@pytest.mark.parametrize("kind", [*KINDS, "twin"])
def test_graphs_are_valid_and_of_the_promised_opset(bundle: Bundle, kind: str) -> None:
    model = make(bundle, kind)
    onnx.checker.check_model(model, full_check=True)
    if kind == "fp16":
        assert opset_of(model) >= 19
    else:
        assert (opset_of(model), model.ir_version) == (17, 8)
    original = load_graph(bundle.artifact(MODEL))
    assert model.graph.input == original.graph.input
    assert model.graph.output == original.graph.output


def both_logits(bundle: Bundle, kind: str, images: Path, count: int) -> tuple[Array, Array]:
    """Logits of test images from the float model and from a quantized graph."""
    source, spec = open_images(images / "test"), bundle.model.image_spec
    logits = []
    for model in (load_graph(bundle.artifact(MODEL)), stand_in(make(bundle, kind))):
        with OnnxRuntimeSession(model, optimise="all" if kind == "twin" else "none") as session:
            logits.append(run_all(session, source, spec, indices=range(count))[0])
    return logits[0], logits[1]


@pytest.mark.parametrize("kind", [*KINDS, "twin"])
@pytest.mark.parametrize("name", ["uint8", "bottleneck", "resnet20"])
def test_quantized_logits_are_the_float_ones_with_a_little_noise(
    calibrated: Callable[[str], Bundle], shipped_images: Path, name: str, kind: str
) -> None:
    exact, quantized = both_logits(calibrated(name), kind, shipped_images, 64)
    noise = ((quantized - exact) ** 2).sum() / (exact**2).sum()
    assert 0 < noise < 0.02


@pytest.mark.parametrize("kind", [*KINDS, "twin"])
def test_the_shipped_network_predicts_the_same_when_quantized(
    flow_bundle: Path, shipped_images: Path, kind: str
) -> None:
    exact, quantized = both_logits(Bundle.open(flow_bundle), kind, shipped_images, 300)
    assert (exact.argmax(1) == quantized.argmax(1)).mean() >= 0.97


def test_a_convolution_computes_with_quantized_numbers() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 3, 3, 3)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    x = rng.normal(size=(2, 3, 9, 9)).astype(np.float32)
    amax = float(np.abs(x).max()) * 0.7  # so that some values are clipped
    model = conv(weight, bias)
    rounded = np.stack([fake_quantize(w, float(np.abs(w).max())) for w in weight])
    expected = run(conv(rounded, bias), fake_quantize(x, amax))
    for kind in ("int8", "int8 weights"):
        result = run(convert(model, ranges(x=amax), kind), x)
        assert np.allclose(result, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(run(model, x), expected, atol=1e-2)


IDENTITY = np.ones((1, 1, 1, 1), np.float32) * 127  # scale 1: the weight itself is exact


@given(
    x=arrays(np.float32, (1, 1, 2, 4), elements=st.floats(-1000, 1000, width=32)),
    amax=st.floats(2.0**-20, 2.0**10, width=32),
)
def test_quantizing_twice_is_quantizing_once(x: Array, amax: float) -> None:
    graph = convert(conv(IDENTITY), ranges(x=amax), "int8")
    once = run(graph, x) / np.float32(127)
    assert np.allclose(run(graph, once) / np.float32(127), once, rtol=1e-6, atol=0)
    assert np.abs(np.clip(x, -amax, amax) - once).max() <= amax / 127 * 1.001


def dead_channel() -> tuple[ModelProto, Array]:
    """One channel of zeros with a bias of 0.3, one ordinary channel."""
    weight = np.stack([np.zeros((2, 3, 3)), np.full((2, 3, 3), 0.01)]).astype(np.float32)
    x = np.random.default_rng(0).uniform(-100, 100, (1, 2, 5, 5)).astype(np.float32)
    return conv(weight, np.array([0.3, 0.3], np.float32)), x


@pytest.mark.parametrize("kind", [*KINDS, "twin"])
def test_a_dead_channel_gives_its_bias(kind: str) -> None:
    model, x = dead_channel()
    y = run(convert(model, ranges(x=100.0), kind), x)
    assert np.isfinite(y).all()
    assert np.allclose(y[:, 0], 0.3, rtol=0.01)


@pytest.mark.parametrize(("kind", "amax"), [("int8", 1e-44), ("fp16", 1e-6), ("twin", 1e-44)])
def test_a_vanishing_range_has_a_scale_one_can_divide_by(kind: str, amax: float) -> None:
    model, x = dead_channel()
    graph = convert(model, ranges(x=amax), kind)
    index = GraphIndex(graph.graph)
    for node in nodes(graph, "DequantizeLinear"):
        assert (constant(index, node.input[1]) > 0).all()
    assert np.isfinite(run(graph, np.zeros_like(x))).all()


@given(weight=arrays(np.float16, (3, 4), elements=st.floats(-65504, 65504, width=16)))
def test_float16_scales_round_up_so_that_nothing_is_clipped(weight: Array) -> None:
    scales = weight_scales(weight)
    assert scales.dtype == np.float16
    assert (scales > 0).all()
    steps = np.abs(weight.astype(np.float64)) / scales.astype(np.float64)[:, None]
    assert steps.max() <= 127
    used = np.abs(weight).max(axis=1) > 2.0**-7  # below, float16 has few steps left itself
    assert (steps.max(axis=1)[used] > 126).all()


@given(
    weight=arrays(
        np.float32,
        (3, 4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    )
)
def test_weights_are_restored_to_within_half_a_step(weight: Array) -> None:
    scales = weight_scales(weight)
    quantized = quantize_weight(weight, scales)
    assert (scales > 0).all()
    assert np.abs(quantized.astype(int)).max() <= 127
    error = np.abs(quantized * scales.astype(np.float64)[:, None] - weight)
    assert (error <= 0.5001 * scales.astype(np.float64)[:, None]).all()


def test_ties_round_to_even() -> None:
    weight = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 127]], np.float32)
    assert quantize_weight(weight, weight_scales(weight)).tolist() == [[0, 2, 2, 0, -2, 127]]


def test_the_twin_stores_what_a_relu_made_from_zero_and_the_rest_around_128(
    bundle: Bundle,
) -> None:
    model, table = make(bundle, "twin"), RangesTable.load(bundle.artifact(TABLE))
    index = GraphIndex(model.graph)
    for node in nodes(model, "QuantizeLinear"):
        tensor, scale, zero = node.input[0], *(constant(index, n) for n in node.input[1:])
        assert zero.dtype == np.uint8
        producer = index.producer.get(tensor)
        if producer is not None and producer.op_type == "Relu":
            assert zero == 0
            assert scale == np.float32(table.tensors[tensor].amax / 255)
        elif producer is None or producer.op_type in ("Conv", "Add", "Div"):
            signed = table.tensors[tensor].min < 0
            assert zero == (128 if signed else 0)
            assert scale == np.float32(table.tensors[tensor].amax / (127 if signed else 255))
    for node in nodes(model, "Conv", "Gemm"):
        weight, bias = (index.producer[name].input for name in node.input[1:])
        assert constant(index, weight[0]).dtype == np.int8
        assert constant(index, bias[0]).dtype == np.int32
        data = index.producer[node.input[0]].input
        product = constant(index, data[1]) * constant(index, weight[1])
        assert np.allclose(constant(index, bias[1]), product, rtol=1e-6)


def test_onnx_runtime_computes_the_twin_in_integers(bundle: Bundle, tmp_path: Path) -> None:
    model = make(bundle, "twin")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert len(nodes(optimized, "QLinearConv")) == len(nodes(model, "Conv"))
    assert len(nodes(optimized, "QLinearAdd")) == len(nodes(model, "Add"))
    assert not nodes(optimized, "Conv", "FusedConv", "Add", "Relu", "Gemm", "GlobalAveragePool")


@pytest.mark.parametrize("kind", [*KINDS, "twin"])
def test_a_range_that_is_missing_is_refused(kind: str) -> None:
    with pytest.raises(GraphError, match="no range for x") as caught:
        convert(conv(IDENTITY), ranges(y=1.0), kind)
    assert "another" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["int8", "twin"])
def test_a_gemm_with_its_channels_last_is_refused(kind: str) -> None:
    text = "g (float[n,3] x) => (float[n,2] y) { y = Gemm(x, weight) }"
    model = onnx_model(text, weight=np.ones((3, 2), np.float32))
    with pytest.raises(GraphError, match="transB"):
        convert(model, ranges(x=1.0), kind)


@pytest.mark.parametrize("kind", [*KINDS, "twin"])
def test_the_float_model_is_left_alone(kind: str) -> None:
    model, _ = dead_channel()
    before = model.SerializeToString()
    convert(model, ranges(x=1.0), kind)
    assert model.SerializeToString() == before


LAST = {"basic": "conv2", "bottleneck": "conv3", "resnet20": "conv2"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(LAST))
def test_the_sum_after_a_layer_kept_in_float_reads_what_it_read_before(
    calibrated: Callable[[str], Bundle], name: str, kind: str
) -> None:
    bundle = calibrated(name)
    table = RangesTable.load(bundle.artifact(TABLE)).tensors
    model = load_graph(bundle.artifact(MODEL))
    model = to_fp16(model) if kind == "fp16" else model
    index = GraphIndex(model.graph)
    adds = nodes(model, "Add")
    weights: Weights = "float" if kind == "int8" else "int8"
    for kept in adds:
        [layer] = [p.name for t in kept.input if (p := index.producer[t]).name.endswith(LAST[name])]
        placement = place(model.graph, keep_float=[layer])
        assert placement.float_nodes == {kept.output[0]}
        graph = engine_graph(model, placement, table, weights=weights)
        by_output = {n.output[0]: n for n in graph.graph.node}
        for add in adds:
            same = list(by_output[add.output[0]].input) == list(add.input)
            through = any(index.producer[t].op_type in PASSES_ON for t in add.input)
            assert same == (add == kept or through), (layer, add.name)


@pytest.mark.parametrize("kept", [True, False])
def test_a_pool_in_front_of_a_layer_kept_in_float_reads_a_float_tensor(kept: bool) -> None:
    """The tensor that it reads has a pair, because a convolution reads it too."""
    text = """
    g (float[n, 4, 8, 8] x) => (float[n, 3] y, float[n, 4, 8, 8] z) {
        z = Conv (x, w)
        pooled = GlobalAveragePool(x)
        flat = Flatten(pooled)
        y = Gemm <transB=1> (flat, head)
    }"""
    constants = {"w": np.ones((4, 4, 1, 1), np.float32), "head": np.ones((3, 4), np.float32)}
    model = onnx_model(text, **constants)
    model.graph.node[3].name = "fc"
    placement = place(model.graph, keep_float=["fc"] if kept else [])
    table = ranges(x=1.0, pooled=1.0)
    graph = engine_graph(model, placement, table, weights="float")
    index = GraphIndex(graph.graph)
    [layer], [pool] = nodes(graph, "Conv"), nodes(graph, "GlobalAveragePool")
    assert index.producer[layer.input[0]].op_type == "DequantizeLinear"
    assert (pool.input[0] == "x") == kept
    assert (pool.output[0] in placement.float_nodes) == kept
