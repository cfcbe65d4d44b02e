"""Reading the first layer's pixels in blocks changes its place and channels, and no bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.names import MODEL, TABLE
from resnet_edge.bundle.ranges_table import RangesTable, TensorRange
from resnet_edge.bundle.reference import Golden
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import twin_graph
from resnet_edge.quantize.stage import quantize
from resnet_edge.quantize.stem import block_the_stem
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

require("onnxruntime")
Array = np.ndarray[Any, Any]


def twin(conv: str, weight: Array, height: int, width: int) -> ModelProto:
    """The twin of a convolution, ReLU, and another convolution, so that the first one's is INT8."""
    out, channels = weight.shape[:2]
    model = onnx_model(
        f"g (float[n,{channels},{height},{width}] x) => (float[n,{out},p,q] y) "
        f"{{ c = Conv{conv} (x, weight) r = Relu(c) y = Conv (r, after) }}",
        weight=weight,
        after=np.eye(out, dtype=np.float32).reshape(out, out, 1, 1),
    )
    for node in model.graph.node:
        node.name = node.output[0]
    ranges = {
        name: TensorRange(3.0, low, 3.0, {}) for name, low in (("x", -3.0), ("c", -3.0), ("r", 0.0))
    }
    return twin_graph(model, place(model.graph), ranges)


def run(model: ModelProto, x: Array) -> Array:
    onnx.checker.check_model(model, full_check=True)
    with OnnxRuntimeSession(model) as session:
        return next(iter(session.run({"x": x}).values()))


def blocked(model: ModelProto) -> ModelProto:
    changed = type(model)()
    changed.CopyFrom(model)
    block_the_stem(changed)
    return changed


def operators(model: ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@settings(max_examples=40)
@given(
    channels=st.integers(1, 3),
    size=st.tuples(st.integers(4, 10), st.integers(4, 10)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    seed=st.integers(0, 99),
)
def test_any_stride_2_convolution_gives_the_same_bits(
    channels: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    pads: tuple[int, int, int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    height, width = (max(2 * s, k) for s, k in zip(size, kernel, strict=True))
    weight = rng.standard_normal((4, channels, *kernel), np.float32)
    model = twin(f"<strides = [2, 2], pads = {list(pads)}>", weight, height, width)
    x = 2 * rng.standard_normal((2, channels, height, width), np.float32)
    changed = blocked(model)
    np.testing.assert_array_equal(run(changed, x), run(model, x))


def test_the_stem_of_an_imagenet_resnet_reads_twelve_channels() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 3, 7, 7), np.float32)
    changed = blocked(twin("<strides = [2, 2], pads = [3, 3, 3, 3]>", weight, 32, 64))
    conv = next(n for n in changed.graph.node if n.name == "c")
    attributes = {a.name: list(a.ints) for a in conv.attribute if a.ints}
    assert attributes == {"kernel_shape": [4, 4], "pads": [2, 2, 1, 1]}
    stored = [i for i in changed.graph.initializer if list(i.dims) == [8, 12, 4, 4]]
    assert [i.data_type for i in stored] == [onnx.TensorProto.INT8]


@pytest.mark.parametrize(
    ("conv", "channels", "height"),
    [
        ("<strides = [1, 1]>", 3, 32),
        ("<strides = [2, 2]>", 4, 32),
        ("<strides = [2, 2]>", 3, 33),
        ("<strides = [2, 2], dilations = [2, 2]>", 3, 32),
        ('<strides = [2, 2], auto_pad = "SAME_UPPER">', 3, 32),
        ("<strides = [2, 1]>", 3, 32),
    ],
)
def test_another_convolution_stays_as_it_is(conv: str, channels: int, height: int) -> None:
    weight = np.random.default_rng(0).standard_normal((4, channels, 3, 3), np.float32)
    model = twin(conv, weight, height, 32)
    assert operators(blocked(model)) == operators(model)


@pytest.mark.parametrize("network", ["basic", "bottleneck", "uint8"])
def test_the_stage_makes_such_a_twin_with_the_same_logits(
    network: str, calibrated: Callable[[str], Bundle]
) -> None:
    bundle = calibrated(network)
    made = load_graph(quantize(bundle, "int8-cpu").path)
    assert operators(made).count("SpaceToDepth") == 1
    model, table = load_graph(bundle.artifact(MODEL)), RangesTable.load(bundle.artifact(TABLE))
    plain = twin_graph(model, place(model.graph), table.tensors)
    feed = bundle.model.image_spec.to_input(Golden.load(bundle).pixels[:4])
    answers = []
    for graph in (made, plain):
        with OnnxRuntimeSession(graph) as session:
            answers.append(next(iter(session.run({session.inputs[0].name: feed}).values())))
    np.testing.assert_array_equal(*answers)
