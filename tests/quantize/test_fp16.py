from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.reference import Golden
from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.quantize.fp16 import to_fp16
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

require("onnxruntime")
NETWORKS = ("tiny", "basic", "bottleneck", "uint8", "resnet20", "plain20")


@pytest.fixture(params=NETWORKS)
def bundle(request: pytest.FixtureRequest, exported: Callable[[str], Bundle]) -> Bundle:
    return exported(request.param)


@pytest.fixture
def half(bundle: Bundle) -> ModelProto:
    return to_fp16(load_graph(bundle.artifact(MODEL)))


def element_types(model: ModelProto) -> dict[str, int]:
    """Element type of every tensor, by ONNX's own inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {v.name: v.type.tensor_type.elem_type for v in values}


def convolution(weight: Any, bias: Any) -> ModelProto:
    text = "g (float[n,1,h,w] x) => (float[n,1,h,w] y) { y = Conv(x, weight, bias) }"
    weight = np.full((1, 1, 1, 1), weight, np.float32)
    return onnx_model(text, weight=weight, bias=np.array([bias], np.float32))


def test_inputs_and_logits_keep_their_types(bundle: Bundle, half: ModelProto) -> None:
    original = load_graph(bundle.artifact(MODEL)).graph
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.input == original.input
    assert half.graph.output == original.output
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_everything_from_the_first_layer_to_the_last_is_float16(half: ModelProto) -> None:
    types, index = element_types(half), GraphIndex(half.graph)
    assert {i.data_type for i in half.graph.initializer if "weight" in i.name} == {
        TensorProto.FLOAT16
    }
    for node in half.graph.node:
        if node.op_type in ("Conv", "Gemm", "Relu", "Add", "MaxPool", "GlobalAveragePool"):
            assert {types[t] for t in node.output} == {TensorProto.FLOAT16}
            assert {i.data_type for n in node.input if (i := index.initializers.get(n))} <= {
                TensorProto.FLOAT16
            }
    casts = [n.name for n in half.graph.node if n.op_type == "Cast" and "to_fp" in n.name]
    assert casts == ["to_fp16", "logits/to_fp32"]
    used = {name for node in half.graph.node for name in node.input}
    assert {i.name for i in half.graph.initializer} <= used, "float weights are left behind"


def test_raw_pixels_are_normalised_in_float32(exported: Callable[[str], Bundle]) -> None:
    half = to_fp16(load_graph(exported("uint8").artifact(MODEL)))
    types, index = element_types(half), GraphIndex(half.graph)
    assert types["input"] == TensorProto.UINT8
    for node in half.graph.node:
        if node.op_type in ("Transpose", "Sub", "Div"):
            assert types[node.output[0]] == TensorProto.FLOAT
            constants = [index.initializers.get(name) for name in node.input]
            assert {c.data_type for c in constants if c} <= {TensorProto.FLOAT}
    (cast,) = (n for n in half.graph.node if n.name == "to_fp16")
    assert index.producer[cast.input[0]].op_type == "Div"


def test_predictions_hardly_change(bundle: Bundle, half: ModelProto) -> None:
    golden = Golden.load(bundle)
    feed = {"input": bundle.model.image_spec.to_input(golden.pixels)}
    with OnnxRuntimeSession(half) as session:
        logits = session.run(feed)["logits"]
    assert logits.dtype == np.float32
    assert np.abs(logits - golden.logits).max() < 0.02 * np.abs(golden.logits).max()


def test_the_float_model_is_left_alone(bundle: Bundle) -> None:
    model = load_graph(bundle.artifact(MODEL))
    before = model.SerializeToString()
    to_fp16(model)
    assert model.SerializeToString() == before


def test_a_tensor_that_is_also_an_output_is_read_as_float16() -> None:
    text = """
    g (float[n,1,h,w] x) => (float[n,1,h,w] y, float[n,1,h,w] z) {
        y = Conv(x, weight)
        z = Relu(y)
    }"""
    half = to_fp16(onnx_model(text, weight=np.full((1, 1, 1, 1), 2, np.float32)))
    onnx.checker.check_model(half, full_check=True)
    x = np.array([-1.0, 0.5], np.float32).reshape(2, 1, 1, 1)
    with OnnxRuntimeSession(half) as session:
        outputs = session.run({"x": x})
    assert outputs["y"].ravel().tolist() == [-2, 1]
    assert outputs["z"].ravel().tolist() == [0, 1]


@pytest.mark.parametrize("value", [65504.0, -65504.0, 0.0, 1e-9])
def test_a_weight_that_fits_is_taken(value: float) -> None:
    half = to_fp16(convolution(value, 1.0))
    with OnnxRuntimeSession(half) as session:
        y = session.run({"x": np.ones((1, 1, 1, 1), np.float32)})["y"]
    assert y.item() == pytest.approx(value + 1, rel=2e-3)


@pytest.mark.parametrize("value", [65520.0, -1e6, np.inf, np.nan])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_a_weight_that_is_too_large_is_refused_with_a_way_out(value: float, where: str) -> None:
    values = {"weight": 1.0, "bias": 1.0, where: value}
    with pytest.raises(GraphError, match=f"{where} does not fit FP16") as caught:
        to_fp16(convolution(**values))
    assert caught.value.hint == "build in FP32, or INT8 with --no-fp16"


def test_a_graph_without_layers_is_refused() -> None:
    with pytest.raises(GraphError, match="no Conv or Gemm"):
        to_fp16(onnx_model("g (float[n] x) => (float[n] y) { y = Relu(x) }"))
