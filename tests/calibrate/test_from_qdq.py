from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from resnet_edge.bundle.ranges_table import Ranges, TensorRange
from resnet_edge.calibrate.from_qdq import ranges_from_qdq
from resnet_edge.errors import CalibrationError
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import engine_graph, twin_graph
from tests.quantize.graphs import CHANNELS, conv, float_net, foreign, model, node, pair, sound

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.quantize.placement import Placement


def true_ranges(network: ModelProto) -> dict[str, float]:
    """Largest magnitude of every tensor of ``float_net`` over the images ``foreign`` sees."""
    import onnxruntime

    every = onnx.ModelProto()
    every.CopyFrom(network)
    names = [o for item in every.graph.node for o in item.output if o != "y"]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(every.SerializeToString())
    rng = np.random.default_rng(2)
    ranges: dict[str, float] = {}
    for _ in range(4):
        batch = rng.normal(size=(1, 3, 16, 16)).astype(np.float32)
        found = dict(zip(["y", *names], session.run(None, {"x": batch}), strict=True)) | {
            "x": batch
        }
        for name, value in found.items():
            ranges[name] = max(ranges.get(name, 0.0), float(np.abs(value).max()))
    return ranges


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activation", ["int8", "uint8"])
def test_ranges_of_an_onnx_runtime_model_are_those_it_was_calibrated_with(
    tmp_path: Path, activation: str, symmetric: bool, bias: bool
) -> None:
    path = foreign(tmp_path, activation=activation, symmetric=symmetric, bias=bias)
    found = ranges_from_qdq(onnx.load(path))
    expected = true_ranges(float_net())
    assert {"x", "r1", "r2", "c3", "r3", "g", "y"} <= set(found) <= set(expected)
    before_relu = {"c1", "c2", "s"}  # they share the range behind the ReLU
    for name in set(found) - before_relu:
        assert found[name] == pytest.approx(expected[name], rel=0.01)


def test_weights_that_have_a_q_of_their_own_are_left_out(tmp_path: Path) -> None:
    plain = foreign(tmp_path, activation="int8", symmetric=True, bias=False)
    expected = ranges_from_qdq(onnx.load(plain))
    other = foreign(
        tmp_path, activation="int8", symmetric=True, bias=False, AddQDQPairToWeight=True
    )
    assert ranges_from_qdq(onnx.load(other)) == expected
    assert "w" not in ranges_from_qdq(sound())


def table(placement: Placement, amax: float, low: float) -> Ranges:
    return {t: TensorRange(amax, low, amax, {}) for t in placement.tensors}


@pytest.mark.parametrize("low", [0.0, -3.0])
def test_ranges_of_our_own_graphs_are_those_they_were_made_from(low: float) -> None:
    network = float_net()
    placement = place(network.graph)
    engine = engine_graph(network, placement, table(placement, 3.0, low), weights="int8")
    assert ranges_from_qdq(engine) == pytest.approx(
        dict.fromkeys(placement.engine_points, 3.0), rel=1e-6
    )
    twin = ranges_from_qdq(twin_graph(network, placement, table(placement, 3.0, low)))
    assert twin == pytest.approx(dict.fromkeys(twin, 3.0), rel=1e-6)
    assert set(twin) >= set(placement.twin_points)


TYPES = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16}


@given(
    dtype=st.sampled_from(sorted(TYPES)),
    scale=st.floats(2**-20, 1024, width=32),
    position=st.floats(0, 1),
)
def test_amax_is_the_farthest_value_a_quantizer_reaches_on_both_sides_or_one(
    dtype: str, scale: float, position: float
) -> None:
    limits = np.iinfo(TYPES[dtype])
    zero = round(limits.min + position * (limits.max - limits.min))
    constants = {"xs": np.float32(scale), "xz": TYPES[dtype](zero)}
    network = sound(activation=pair("x", "xd", "xs", "xz"), constants=constants, opset=21)
    low, high = (limits.min - zero) * float(scale), (limits.max - zero) * float(scale)
    symmetric = zero == (limits.min + limits.max + 1) // 2
    expected = high if symmetric else max(-low, high)
    assert ranges_from_qdq(network) == {"x": pytest.approx(expected, rel=1e-6)}


def two_quantizers() -> ModelProto:
    nodes = [*pair("x", "xd", "xs"), *pair("x", "xe", "ys"), conv("xd", "w", "c1")]
    return model([*nodes, conv("xe", "w", "c2"), node("Add", ["c1", "c2"], "y")])


def quantized_again() -> ModelProto:
    nodes = [*pair("x", "xd", "xs"), *pair("xd", "xe", "ys")]
    return model([*nodes, conv("xe", "w")])


def casted() -> ModelProto:
    cast = node("Cast", ["x"], "x32", to=TensorProto.FLOAT)
    types = (TensorProto.FLOAT16, TensorProto.FLOAT)
    return model([cast, *pair("x32", "xd", "ys"), conv("xd", "w")], types=types)


def per_channel() -> ModelProto:
    scales = np.linspace(0.01, 0.03, CHANNELS, dtype=np.float32)
    constants = {"xs": scales, "xz": np.zeros(CHANNELS, np.int8)}
    return sound(activation=pair("x", "xd", "xs", "xz", axis=1), constants=constants)


def untyped() -> ModelProto:
    return sound(activation=pair("x", "xd", "ys", None))


@pytest.mark.parametrize("make", [two_quantizers, quantized_again, casted, per_channel, untyped])
def test_a_tensor_has_one_range_under_its_own_name(make: Any) -> None:
    assert ranges_from_qdq(make()) == {"x": pytest.approx(0.03 * 127)}


def integer_operators() -> ModelProto:
    nodes = [node("QuantizeLinear", ["x", "xs", "zero"], "q")]
    inputs = ["q", "xs", "zero", "steps", "ws", "zeros", "ys", "zero"]
    nodes.append(node("QLinearConv", inputs, "yq", pads=[1] * 4))
    return model([*nodes, node("DequantizeLinear", ["yq", "ys", "zero"], "y")])


def with_scale(scale: float) -> ModelProto:
    return sound(constants={"xs": np.float32(scale)})


def computed_scale() -> ModelProto:
    nodes = [node("ReduceMax", ["x"], "s", keepdims=0), *pair("x", "xd", "s")]
    return model([*nodes, conv("xd", "w")])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (float_net(), "no quantized activations"),
        (integer_operators(), "QLinearConv"),
        (with_scale(0), "xd_Q"),
        (with_scale(float("nan")), "xd_Q"),
        (with_scale(float("inf")), "xd_Q"),
        (computed_scale(), "xd_Q"),
    ],
)
def test_what_has_no_ranges_is_refused(network: ModelProto, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        ranges_from_qdq(network)
