from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resnet_edge.errors import GraphError
from resnet_edge.export.normalize.shapes import (
    fix_input,
    fold_constants,
    free_batch,
    state_output,
    store,
    tensor_shapes,
)
from resnet_edge.graph.macs import layer_macs
from resnet_edge.graph.nodes import GraphIndex
from tests.conftest import require
from tests.export.foreign.models import numbers
from tests.export.normalize.graphs import assert_valid, check, graph, kinds, run

require("onnxruntime")


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
    assert sum(layer_macs(model).values()) == 4 * 3 * 5 * 27


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
