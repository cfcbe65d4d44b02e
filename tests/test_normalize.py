"""Each pass keeps what the graph computes and leaves what its docstring says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.errors import GraphError
from resnet_edge.graph import GraphIndex, attribute, opset_of
from resnet_edge.normalize.classifier import normalize
from resnet_edge.normalize.layers import (
    count_parameters,
    dense_to_gemm,
    fold_affine,
    give_own_weights,
)
from resnet_edge.normalize.layout import sink_transposes, take_nchw
from resnet_edge.normalize.passes import (
    drop_no_ops,
    flatten_output,
    keep_output,
    pool_globally,
    raise_opset,
    tidy_names,
)
from resnet_edge.normalize.shapes import (
    count_macs,
    fix_input,
    fold_constants,
    free_batch,
    state_output,
    store,
    tensor_shapes,
)
from tests.conftest import onnx_model, require
from tests.foreign_models import caffe_like, numbers, tf_like

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

require("onnxruntime")
few = settings(max_examples=25)


def graph(body: str, shape: str = "2,3,5,7", *, opset: int = 17, **constants: Any) -> ModelProto:
    """A graph from ``x`` to ``y``."""
    text = f"g (float[{shape}] x) => (float y) {{ {body} }}"
    model = onnx_model(text, opset=opset, **constants)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def run(model: ModelProto, *shape: int) -> Any:
    feed = numbers(*shape or (2, 3, 5, 7), seed=7)
    with OnnxRuntimeSession(model, optimise="none") as session:
        return session.run({session.inputs[0].name: feed})[session.outputs[0].name]


def kinds(model: ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def assert_valid(model: ModelProto) -> None:
    if model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"):
        state_output(model)
    onnx.checker.check_model(model, full_check=True)


def check(model: ModelProto, apply: Callable[[ModelProto], object], *shape: int) -> list[str]:
    """Apply a pass, check that it kept the meaning, and return the operators it left."""
    before = run(model, *shape)
    apply(model)
    assert_valid(model)
    after = run(model, *shape)
    assert after.shape == before.shape
    assert np.allclose(after, before, rtol=1e-4, atol=1e-4)
    return kinds(model)


def test_keeping_an_output_drops_what_only_others_needed() -> None:
    model = graph("a = Relu(x) b = Neg(a) y = Add(b, c)", c=np.float32(1))
    keep_output(model, "a")
    assert kinds(model) == ["Relu"]
    assert [o.name for o in model.graph.output] == ["a"]
    assert not model.graph.initializer


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 16])
def test_older_models_are_translated(opset: int) -> None:
    pad = "Pad <pads=[0,0,1,1,0,0,1,1]> (x)" if opset < 11 else "Pad(x, pads)"
    model = graph(f"a = {pad} y = Relu(a)", opset=opset)
    if opset >= 11:
        store(model, "pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    assert check(model, lambda m: raise_opset(m, 17))[-2:] == ["Pad", "Relu"]
    assert opset_of(model) == 17


def test_newer_models_keep_their_opset() -> None:
    model = graph("y = Relu(x)", opset=20)
    before = model.SerializeToString()
    raise_opset(model, 17)
    assert model.SerializeToString() == before


def test_what_cannot_be_translated_is_refused() -> None:
    model = graph("y = Upsample <scales=[1.0,1.0,2.0,2.0]> (x)", opset=8)
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(GraphError, match="from opset 8 to 17"):
        raise_opset(model, 17)


def test_what_does_nothing_goes() -> None:
    body = """a = Identity(x) b, mask = Dropout(a) c = Transpose <perm=[0,1,2,3]> (b)
    d = Sum(c) e = Sum(d, a) f = Relu(e) y = Identity(f)"""
    assert check(graph(body), drop_no_ops) == ["Add", "Relu"]


@pytest.mark.parametrize("body", ["y = Identity(x)", "y = Sum(x, x, x)", "y = Transpose(x)"])
def test_what_does_something_stays(body: str) -> None:
    assert len(check(graph(body), drop_no_ops)) == 1


def test_constants_and_shape_arithmetic_are_computed_once() -> None:
    body = """c = Constant <value = float {2}> () d = Identity(w) e = Mul(d, c) a = Conv(x, e)
    s = Shape(a) n = Gather <axis=0> (s, zero) u = Unsqueeze(n, first) t = Concat <axis=0> (u, rest)
    r = Reshape(a, t) s2 = Shape(r) m = Gather <axis=0> (s2, one) f = Cast <to=1> (m)
    y = Div(r, f)"""
    constants = {
        "w": numbers(4, 3, 3, 3), "zero": np.array(0), "one": np.array(1),
        "first": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    model = graph(body, **constants)
    assert check(model, fold_constants) == ["Conv", "Reshape", "Div"]
    index = GraphIndex(model.graph)
    assert index.constant("t").tolist() == [2, -1]  # type: ignore[union-attr]
    assert index.constant("f") == 60
    assert index.constant("f").shape == ()  # type: ignore[union-attr]
    assert np.allclose(index.constant("e"), 2 * constants["w"])  # type: ignore[arg-type]


def test_a_window_of_a_shape_is_folded_and_random_numbers_are_not() -> None:
    model = graph("s = Shape <start=1, end=-1> (x) y = Reshape(z, s)", z=numbers(15))
    fold_constants(model)
    assert kinds(model) == []
    noise = graph("r = RandomNormal <shape=[2,3,5,7]> () y = Add(x, r)")
    fold_constants(noise)
    assert kinds(noise) == ["RandomNormal", "Add"]


def test_a_shape_that_is_not_known_stays() -> None:
    model = graph("s = Shape(x) y = Reshape(x, s)", "n,3,5,7")
    fold_constants(model)
    assert kinds(model) == ["Shape", "Reshape"]


def test_a_fixed_input_decides_all_shapes() -> None:
    model = graph("y = Conv(x, w)", "n,3,h,w", w=numbers(4, 3, 3, 3))
    assert "y" not in tensor_shapes(model)
    fix_input(model, (2, 3, 5, 7))
    assert tensor_shapes(model)["y"] == (2, 4, 3, 5)
    assert state_output(model) == (2, 4, 3, 5)
    assert count_macs(model) == 4 * 3 * 5 * 27


def test_an_output_of_unknown_shape_is_refused() -> None:
    model = graph("i = NonZero(x) y = Cast <to=1> (i)")
    with pytest.raises(GraphError, match="the shape of y cannot be inferred"):
        state_output(model)


def test_stored_values_never_overwrite_others() -> None:
    model = graph("y = Add(x, w)", w=np.float32(1))
    assert [store(model, name, np.ones(2)) for name in ("w", "w", "y", "x", "new")] == [
        "w_1", "w_2", "y_1", "x_1", "new"
    ]  # fmt: skip


ROWS = {
    "fixed": ("Reshape(x, s)", [2, 105]),
    "inferred": ("Reshape(x, s)", [-1, 105]),
    "rest": ("Reshape(x, s)", [2, -1]),
    "channels": ("Reshape(x, s)", [2, 3, 35]),
    "literal zero": ("Reshape <allowzero=1> (x, s)", [2, 105]),
    "flatten": ("Flatten(x)", None),
    "negative": ("Flatten <axis=-3> (x)", None),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_reshape_that_keeps_the_rows_works_for_any_batch(kind: str) -> None:
    body, shape = ROWS[kind]
    model = graph(f"y = {body}", **({} if shape is None else {"s": np.array(shape)}))
    state_output(model)
    before = run(model)
    assert free_batch(model) is None
    assert_valid(model)
    assert np.array_equal(run(model), before)
    assert run(model, 5, 3, 5, 7).shape == (5, *before.shape[1:])
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("size", [1, 2])
def test_a_squeeze_without_axes_keeps_the_batch(size: int) -> None:
    model = graph("p = GlobalAveragePool(x) y = Squeeze(p)", f"{size},3,5,7")
    state_output(model)
    blocked = free_batch(model)
    assert (blocked is None) == (size > 1)  # a batch of one is squeezed away
    if blocked is None:
        assert run(model, 1, 3, 5, 7).shape == (1, 3)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = Reshape(x, s)", {"s": np.array([3, 70])}),
        ("y = Reshape(x, s)", {"s": np.array([-1])}),
        ("y = Flatten <axis=2> (x)", {}),
        ("y = Flatten <axis=0> (x)", {}),
        ("t = Transpose <perm=[1,0,2,3]> (x) y = Reshape(t, s)", {"s": np.array([2, 105])}),
    ],
)
def test_a_reshape_that_mixes_images_is_named(body: str, constants: dict[str, Any]) -> None:
    model = graph(body, **constants)
    for node in model.graph.node:
        node.name = node.op_type
    state_output(model)
    before = model.SerializeToString()
    assert free_batch(model) == model.graph.node[-1].name
    assert model.SerializeToString() == before


MEANS = {
    "axes": ("ReduceMean <axes=[2,3]> (x)", 1),
    "negative axes": ("ReduceMean <axes=[-1,-2], keepdims=1> (x)", 1),
    "no dimensions": ("ReduceMean <axes=[2,3], keepdims=0> (x)", 2),
    "window": ("AveragePool <kernel_shape=[5,7]> (x)", 1),
    "channels last": ("ReduceMean <axes=[1,2], keepdims=0> (t)", 2),
    "channels last, all dimensions": ("ReduceMean <axes=[1,2]> (t)", 2),
}


@pytest.mark.parametrize("kind", MEANS)
@pytest.mark.parametrize("newer", [False, True])
def test_means_over_the_image_become_global_pools(kind: str, newer: bool) -> None:
    body, nodes = MEANS[kind]
    constants = {}
    if newer and "axes=" in body:  # since opset 18 the axes are an input
        listed = body[body.index("[") + 1 : body.index("]")]
        constants["hw"] = np.array([int(a) for a in listed.split(",")])
        keep = int("keepdims=0" not in body)
        body = f"ReduceMean <keepdims={keep}> ({body[-2]}, hw)"
    text = f"t = Transpose <perm=[0,2,3,1]> (x) y = {body}"
    left = check(graph(text, opset=18 if newer else 17, **constants), pool_globally)
    assert left[0] == "GlobalAveragePool"
    assert len(left) == nodes


@pytest.mark.parametrize(
    "body",
    [
        "ReduceMean <axes=[1,2]> (x)",
        "ReduceMean <axes=[3]> (x)",
        "ReduceMean(x)",
        "AveragePool <kernel_shape=[5,5]> (x)",
        "AveragePool <kernel_shape=[5,7], pads=[1,1,1,1]> (x)",
        'AveragePool <kernel_shape=[5,7], auto_pad="SAME_UPPER"> (x)',
    ],
)
def test_other_means_stay(body: str) -> None:
    assert check(graph(f"y = {body}"), pool_globally) == [body.split()[0].partition("(")[0]]


@few
@given(
    turned=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.25]),
    bias=st.sampled_from([None, (), (1,), (4,), (1, 4), (1, 1)]),
)
def test_every_gemm_gets_its_output_channels_first(
    turned: bool, alpha: float, beta: float, bias: tuple[int, ...] | None
) -> None:
    constants = {"w": numbers(4, 105) if turned else numbers(105, 4)}
    if bias is not None:
        constants["b"] = numbers(*bias) if bias else np.float32(0.5)
    third = "" if bias is None else ", b"
    model = graph(
        f"f = Flatten(x) y = Gemm <transB={int(turned)}, alpha={alpha}, beta={beta}> (f, w{third})",
        **constants,
    )
    assert check(model, dense_to_gemm) == ["Flatten", "Gemm"]
    node, index = model.graph.node[1], GraphIndex(model.graph)
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"transB": 1}
    assert [index.constant(n).shape for n in node.input[1:]] == [  # type: ignore[union-attr]
        (4, 105), *([] if bias is None else [(4,)])
    ]  # fmt: skip


def test_a_product_with_a_stored_matrix_becomes_a_gemm_and_takes_its_bias() -> None:
    def apply(model: ModelProto) -> None:
        dense_to_gemm(model)
        fold_affine(model)

    body = "f = Flatten(x) m = MatMul(f, w) y = Add(b, m)"
    model = graph(body, w=numbers(105, 4), b=numbers(4))
    assert check(model, apply) == ["Flatten", "Gemm"]
    assert {tuple(i.dims) for i in model.graph.initializer} == {(4, 105), (4,)}


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = MatMul(x, w)", {"w": numbers(7, 4)}),
        ("f = Flatten(x) y = MatMul(w, f)", {"w": numbers(4, 2)}),
        ("f = Flatten(x) y = Gemm <transA=1> (f, w)", {"w": numbers(2, 4)}),
        ("f = Flatten(x) y = Gemm(f, w, b)", {"w": numbers(105, 4), "b": numbers(2, 1)}),
        ("f = Flatten(x) y = Gemm <transB=1> (f, f)", {}),
    ],
)
def test_other_products_stay_as_they_are(body: str, constants: dict[str, Any]) -> None:
    model = graph(body, **constants)
    nodes = list(model.graph.node)
    check(model, dense_to_gemm)
    assert list(model.graph.node) == nodes


def test_layers_that_share_a_matrix_keep_their_own() -> None:
    body = "f = Flatten(x) a = Gemm <alpha=2.0> (f, w) b = MatMul(f, w) y = Add(a, b)"
    assert check(graph(body, w=numbers(105, 4)), dense_to_gemm)[1:] == ["Gemm", "Gemm", "Add"]


STEPS = {
    "norm": "BatchNormalization <epsilon=0.01> ({}, v, b, b, v)",
    "scale": "Mul({}, k)",
    "other scale": "Mul(k, {})",
    "half": "Div({}, two)",
    "shift": "Add({}, k)",
    "back": "Sub({}, k)",
    "mirror": "Sub(k, {})",
    "offset": "Add(two, {})",
}


@few
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4),
    biased=st.booleans(),
    dense=st.booleans(),
)
def test_scales_and_shifts_go_into_the_layer_before_them(
    steps: list[str], biased: bool, dense: bool
) -> None:
    shape = (1, 4) if dense else (4, 1, 1)
    bias = ", b" if biased else ""
    layer = f"f = Flatten(x) t0 = Gemm <transB=1> (f, wd{bias})" if dense else (
        f"t0 = Conv(x, w{bias})"
    )  # fmt: skip
    lines = [f"t{i + 1} = {STEPS[step].format(f't{i}')}" for i, step in enumerate(steps)]
    model = graph(
        f"{layer} {' '.join(lines)} y = Relu(t{len(steps)})",
        w=numbers(4, 3, 3, 3), wd=numbers(4, 105), b=numbers(4), v=np.abs(numbers(4)) + 0.5,
        k=numbers(*shape, seed=3) + 1, two=np.full((1,) * len(shape), 2, np.float32),
    )  # fmt: skip
    assert check(model, fold_affine)[-2:] == ["Gemm" if dense else "Conv", "Relu"]


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) n = Add(c, k) y = Add(n, c)",  # somebody else reads the layer
        "c = Conv(x, w) y = Add(c, along)",  # one number per column
        "c = Conv(x, w) y = Div(k, c)",
        "c = Conv(x, w) y = Div(c, zero)",
        "c = Conv(x, w) y = Mul(c, c)",
        "c = Conv(x, w) r = Relu(c) y = Add(r, k)",
    ],
)
def test_what_is_no_scale_of_a_channel_is_not_folded(body: str) -> None:
    model = graph(
        body, w=numbers(4, 3, 3, 3), k=numbers(4, 1, 1) + 1, along=numbers(5),
        zero=np.zeros((4, 1, 1), np.float32),
    )  # fmt: skip
    nodes = list(model.graph.node)
    fold_affine(model)
    assert list(model.graph.node) == nodes


def test_folding_into_one_of_two_layers_with_the_same_weights_leaves_the_other() -> None:
    body = "a = Conv(x, w) n = Mul(a, k) b = Conv(x, w) y = Add(n, b)"
    model = graph(body, w=numbers(4, 3, 3, 3), k=numbers(4, 1, 1))
    assert check(model, fold_affine) == ["Conv", "Conv", "Add"]


@few
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["", "p", "q"])), min_size=1, max_size=5
    )
)
def test_every_layer_gets_weights_of_its_own(layers: list[tuple[str, str]]) -> None:
    tensors = ["x", *[f"t{i}" for i in range(len(layers) - 1)], "y"]
    text = ""
    for i, (weight, bias) in enumerate(layers):
        inputs = ", ".join(filter(None, (tensors[i], weight, bias)))
        text += f"{tensors[i + 1]} = Conv <pads=[1,1,1,1]> ({inputs})\n"
    model = graph(
        text, a=numbers(3, 3, 3, 3), b=numbers(3, 3, 3, 3, seed=1), p=numbers(3),
        q=numbers(3, seed=1),
    )  # fmt: skip
    check(model, give_own_weights)
    read = [name for node in model.graph.node for name in node.input[1:]]
    assert len(read) == len(set(read)) == sum(1 + bool(bias) for _, bias in layers)


def test_only_the_layer_gets_a_copy_of_what_others_read_too() -> None:
    model = graph("c = Conv(x, w, b) y = Mul(c, b)", w=numbers(7, 3, 1, 1), b=numbers(7) + 1)
    check(model, give_own_weights)
    assert [list(n.input) for n in model.graph.node] == [["x", "w", "c.bias"], ["c", "b"]]


def test_trained_numbers_are_counted_once_and_statistics_are_not() -> None:
    body = "a = Conv(x, w, b) n = BatchNormalization(a, s, b, m, v) c = Conv(x, w) y = Add(n, c)"
    ones = np.ones(4, np.float32)
    assert count_parameters(graph(body, w=numbers(4, 3, 3, 3), b=ones, s=ones, m=ones, v=ones)) == (
        4 * 27 + 4 + 4
    )


ELEMENTWISE = {
    "relu": "Relu({})",
    "scalar": "Mul({}, two)",
    "channel": "Sub({}, last)",
    "reverse": "Div(last, {})",
    "clip": "Clip({}, two, )",
}


@few
@given(
    first=st.permutations(range(4)),
    second=st.permutations(range(4)),
    steps=st.lists(st.sampled_from(sorted(ELEMENTWISE)), max_size=3),
)
def test_transposes_meet_and_merge(first: list[int], second: list[int], steps: list[str]) -> None:
    shape = (2, 3, 5, 7)
    lines = [f"t{i + 1} = {ELEMENTWISE[step].format(f't{i}')}" for i, step in enumerate(steps)]
    model = graph(
        f"t0 = Transpose <perm={list(first)}> (x) {' '.join(lines)} "
        f"y = Transpose <perm={list(second)}> (t{len(steps)})",
        two=np.float32(2), last=numbers(shape[first[3]], seed=3) + 2,
    )  # fmt: skip
    left = check(model, sink_transposes)
    undone = [first[i] for i in second] == [0, 1, 2, 3]
    # the output of a graph cannot be its input, so nothing but two Transposes leave one
    assert left.count("Transpose") == (not undone or not steps)
    assert len(left) - left.count("Transpose") == len(steps)


def test_a_transpose_that_meets_no_other_stays_where_it_is() -> None:
    body = "t = Transpose <perm=[0,2,3,1]> (x) r = Relu(t) y = Add(r, t)"
    assert check(graph(body), sink_transposes) == ["Transpose", "Relu", "Add"]


def test_a_cast_comes_before_a_transpose() -> None:
    body = "i = Cast <to=2> (x) t = Transpose <perm=[0,3,1,2]> (i) y = Cast <to=1> (t)"
    assert check(graph(body), sink_transposes) == ["Cast", "Cast", "Transpose"]


def test_an_input_with_channels_last_is_turned() -> None:
    body = "c = Sub(x, mean) t = Transpose <perm=[0,3,1,2]> (c) y = Conv(t, w)"
    model = graph(body, "2,5,7,3", mean=numbers(3), w=numbers(4, 3, 3, 3))
    x = numbers(2, 5, 7, 3, seed=7)
    with OnnxRuntimeSession(model) as session:
        expected = session.run({"x": x})["y"]
    take_nchw(model)
    sink_transposes(model)
    assert_valid(model)
    assert kinds(model) == ["Sub", "Conv"]
    with OnnxRuntimeSession(model) as session:
        turned = session.run({"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})["y"]
    assert np.allclose(turned, expected, atol=1e-6)


def test_logits_get_one_row_per_image() -> None:
    pooled = graph("y = GlobalAveragePool(x)")
    before = run(pooled)
    flatten_output(pooled)
    assert np.array_equal(run(pooled), before.reshape(2, 3))
    assert check(graph("y = Flatten(x)"), flatten_output) == ["Flatten"]


def test_names_are_those_the_other_stages_expect() -> None:
    body = "input = Relu(x) logits = Neg(input) conv_scale = Abs(logits) conv = Add(conv_scale, w) "
    model = graph(f"{body} y = Sub(conv, conv_scale)", w=np.float32(1))
    for node in model.graph.node[:2]:
        node.name = "same"
    tidy_names(model)
    assert_valid(model)
    assert model.graph.input[0].name == "input"
    assert model.graph.output[0].name == "logits"
    outputs = [n.output[0] for n in model.graph.node]
    assert outputs == ["input_", "logits_", "conv_scale_", "conv", "logits"]
    assert len({n.name for n in model.graph.node}) == 5
    assert all(n.name for n in model.graph.node)


@pytest.mark.parametrize("onnxsim", [True, False])
@pytest.mark.parametrize("make", [tf_like, caffe_like])
def test_all_passes_together_are_idempotent(make: Callable[[], ModelProto], onnxsim: bool) -> None:
    if onnxsim:
        require("onnxsim")
    original = make()
    stored = {i.name for i in original.graph.initializer}
    inputs = [i for i in original.graph.input if i.name not in stored]
    del original.graph.input[:]
    original.graph.input.extend(inputs)
    original.ir_version = 8
    nhwc = make is tf_like
    shape = (2, 16, 16, 3) if nhwc else (1, 3, 16, 16)
    first = normalize(original, "logits", shape, to_nchw=nhwc, onnxsim=onnxsim)
    second = normalize(first.model, "logits", (2, 3, 16, 16), onnxsim=onnxsim)
    assert second.nodes == first.nodes
    assert (second.macs, second.blocked, second.notes) == (first.macs, None, ())
    assert np.allclose(run(second.model, 4, 3, 16, 16), run(first.model, 4, 3, 16, 16), atol=1e-6)
    assert {"Constant", "Identity", "MatMul", "BatchNormalization"}.isdisjoint(first.nodes)
    for node in first.model.graph.node:
        assert node.op_type != "Gemm" or attribute(node, "transB") == 1
