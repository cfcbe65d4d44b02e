from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.errors import ExportError, GraphError
from resnet_edge.export.normalize.simplify import IR_VERSION, OPSET, simplify
from resnet_edge.graph.relabel import opset_of
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from onnx import ModelProto

onnxsim = require("onnxsim")
require("onnxruntime")
fold = pytest.mark.parametrize("fold", [True, False])

HEAD = """
head (float[n,3,5,7] x) => (float[n,2] logits) {
    conv = Conv <pads=[1,1,1,1]> (x, w)
    relu = Relu(conv)
    mean = ReduceMean <keepdims=1> (relu, axes)
    view = Reshape(mean, shape)
    logits = Gemm <transB=1> (view, fc)
}"""


def head(axes: Any = (-1, -2)) -> ModelProto:
    """A classifier as the dynamo exporter writes it: opset 18, the pool a ReduceMean."""
    rng = np.random.default_rng(0)
    return onnx_model(
        HEAD,
        opset=18,
        w=rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        axes=np.array(axes),
        shape=np.array([0, -1]),
        fc=rng.normal(size=(2, 4)).astype(np.float32),
    )


def sample(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def run(model: ModelProto, *shape: int) -> Any:
    with OnnxRuntimeSession(model) as session:
        return next(iter(session.run({"x": sample(*shape)}).values()))


def count(model: ModelProto) -> dict[str, int]:
    return dict(Counter(n.op_type for n in model.graph.node))


@fold
@pytest.mark.parametrize("axes", [(2, 3), (3, 2), (-1, -2), (-2, -1)])
def test_the_mean_over_the_image_becomes_a_global_average_pool(
    axes: tuple[int, int], fold: bool
) -> None:
    before = run(head(axes), 3, 3, 5, 7)
    result = simplify(head(axes), fold=fold)
    assert "ReduceMean" not in result.after
    assert result.after["GlobalAveragePool"] == 1
    assert np.allclose(run(result.model, 3, 3, 5, 7), before, rtol=1e-5, atol=1e-6)


@fold
def test_the_result_is_of_the_opset_every_target_reads(fold: bool) -> None:
    model = simplify(head(), fold=fold).model
    assert (opset_of(model), model.ir_version) == (OPSET, IR_VERSION) == (17, 8)
    onnx.checker.check_model(model, full_check=True)


@fold
def test_operators_are_counted_before_and_after(fold: bool) -> None:
    result = simplify(head(), fold=fold)
    assert result.before == count(head())
    assert result.after == count(result.model)


def test_the_old_form_with_an_axes_attribute_is_replaced_too() -> None:
    text = "g (float[n,3,5,7] x) => (float[n,3,1,1] y) { y = ReduceMean <axes=[2,3]> (x) }"
    model = onnx_model(text)
    before = run(model, 2, 3, 5, 7)
    result = simplify(model, fold=False)
    assert result.after == {"GlobalAveragePool": 1}
    assert np.allclose(run(result.model, 2, 3, 5, 7), before, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "axes"),
    [("keepdims=0", (3, 1)), ("keepdims=1", (1, 2)), ("keepdims=1", (3,)), ("keepdims=1", (0, 1))],
)
def test_another_mean_is_not_a_pool_and_is_refused(attributes: str, axes: tuple[int, ...]) -> None:
    text = f"""
    g (float[n,3,5,7] x) => (float[a,b,c,d] y) {{ y = ReduceMean <{attributes}> (x, axes) }}"""
    with pytest.raises(GraphError, match="ReduceMean"):
        simplify(onnx_model(text, opset=18, axes=np.array(axes)), fold=False)


def test_a_mean_that_drops_the_extents_is_a_pool_and_a_flatten() -> None:
    text = "g (float[n,3,5,7] x) => (float[n,3] y) { y = ReduceMean <keepdims=0> (x, axes) }"
    model = onnx_model(text, opset=18, axes=np.array([2, 3]))
    before = run(model, 2, 3, 5, 7)
    result = simplify(model, fold=False)
    assert result.after == {"GlobalAveragePool": 1, "Flatten": 1}
    assert np.allclose(run(result.model, 2, 3, 5, 7), before, atol=1e-6)


def test_constants_are_folded() -> None:
    text = """
    g (float[n,2] x) => (float[n,2] y) {
        b = Mul(a, a)
        y = Add(x, b)
    }"""
    result = simplify(onnx_model(text, a=np.full(2, 3, np.float32)))
    assert (result.before, result.after) == ({"Mul": 1, "Add": 1}, {"Add": 1})
    assert np.allclose(run(result.model, 4, 2), sample(4, 2) + 9)


def test_batch_norms_are_folded_into_their_convolutions() -> None:
    text = """
    g (float[n,3,5,7] x) => (float[n,4,5,7] y) {
        c = Conv <pads=[1,1,1,1]> (x, w)
        b = BatchNormalization (c, scale, bias, mean, var)
        y = Relu(b)
    }"""
    rng = np.random.default_rng(0)
    norm = {k: rng.uniform(0.5, 2, 4).astype(np.float32) for k in ("scale", "bias", "mean", "var")}
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    before = run(onnx_model(text, w=weight, **norm), 2, 3, 5, 7)
    result = simplify(onnx_model(text, w=weight, **norm))
    assert result.after == {"Conv": 1, "Relu": 1}
    assert np.allclose(run(result.model, 2, 3, 5, 7), before, rtol=1e-4, atol=1e-5)


@fold
@pytest.mark.parametrize("equal", [True, False])
def test_every_layer_keeps_weights_of_its_own_however_equal_they_are(
    fold: bool, equal: bool
) -> None:
    second = "v" if equal else "w"  # stored twice, which onnxsim undoes; or shared from the start
    text = f"""
    g (float[n,4,5,7] x) => (float[n,4,5,7] y) {{
        c = Conv (x, w, b)
        r = Relu(c)
        y = Conv (r, {second}, b)
    }}"""
    weight, bias = sample(4, 4, 1, 1), sample(4)
    model = onnx_model(text, w=weight, b=bias, **({"v": weight} if equal else {}))
    before = run(model, 2, 4, 5, 7)
    result = simplify(model, fold=fold).model
    read = [name for n in result.graph.node for name in n.input[1:]]
    assert len(read) == len(set(read)) == 4
    assert np.allclose(run(result, 2, 4, 5, 7), before, rtol=1e-5)


def test_layers_are_named_after_their_weights_and_notes_are_dropped() -> None:
    model = head()
    for value in model.graph.initializer:
        value.name = {"w": "layer1.0.conv1.weight"}.get(value.name, value.name)
    conv = model.graph.node[0]
    conv.input[1] = "layer1.0.conv1.weight"
    conv.doc_string = "File /home/somebody/train.py"
    conv.metadata_props.add(key="trace", value="File /home/somebody/train.py")
    model.graph.doc_string = "made in /home/somebody"
    result = simplify(model, fold=False).model
    assert result.graph.node[0].name == "layer1.0.conv1"
    assert b"somebody" not in result.SerializeToString()


def test_a_failure_of_onnxsim_is_our_error_with_a_way_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(_model: ModelProto) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(onnxsim, "simplify", crash)
    with pytest.raises(ExportError, match="out of ideas") as caught:
        simplify(head())
    assert "--no-simplify" in (caught.value.hint or "")
    monkeypatch.setattr(onnxsim, "simplify", lambda model: (model, False))
    with pytest.raises(ExportError, match="does not equal its input") as caught:
        simplify(head())
    assert "--no-simplify" in (caught.value.hint or "")
    assert simplify(head(), fold=False).after["GlobalAveragePool"] == 1
