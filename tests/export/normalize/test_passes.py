from __future__ import annotations

import numpy as np
import pytest

from resnet_edge.errors import GraphError
from resnet_edge.export.normalize.passes import (
    drop_no_ops,
    flatten_output,
    keep_output,
    pool_globally,
    raise_opset,
    tidy_names,
)
from resnet_edge.export.normalize.shapes import store
from resnet_edge.graph.relabel import opset_of
from tests.conftest import require
from tests.export.normalize.graphs import assert_valid, check, graph, kinds, run

require("onnxruntime")


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
