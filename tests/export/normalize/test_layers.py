from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.export.normalize.layers import (
    count_parameters,
    dense_to_gemm,
    fold_affine,
    give_own_weights,
)
from resnet_edge.graph.nodes import GraphIndex
from tests.conftest import require
from tests.export.foreign.models import numbers
from tests.export.normalize.graphs import check, few, graph

if TYPE_CHECKING:
    from onnx import ModelProto

require("onnxruntime")


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
