from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.export.normalize.layout import sink_transposes, take_nchw
from tests.conftest import require
from tests.export.foreign.models import numbers
from tests.export.normalize.graphs import assert_valid, check, few, graph, kinds

require("onnxruntime")

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
