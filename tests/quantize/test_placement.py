from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.provenance import checkpoint_of
from resnet_edge.errors import GraphError
from resnet_edge.export.stage import ExportConfig, export
from resnet_edge.graph.nodes import GraphIndex
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.operators import commutes
from resnet_edge.quantize.placement import Placement, place
from tests.conftest import onnx_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import GraphProto, NodeProto

    from resnet_edge.bundle.bundle import Bundle

NETWORKS = ("tiny", "basic", "bottleneck", "uint8", "resnet20", "plain20")
RESIDUAL = tuple(n for n in NETWORKS if n != "plain20")
PASSES_ON = {"MaxPool", "Slice", "Pad", "Reshape"}


@pytest.fixture(params=NETWORKS)
def graph(request: pytest.FixtureRequest, exported: Callable[[str], Bundle]) -> GraphProto:
    return load_graph(exported(request.param).artifact(MODEL)).graph


residual = pytest.mark.parametrize("graph", RESIDUAL, indirect=True)


def nodes(graph: GraphProto, *types: str) -> list[NodeProto]:
    return [n for n in graph.node if n.op_type in types]


def behind(graph: GraphProto, tensor: str) -> str:
    """The tensor that ``tensor`` is a pooled, sliced, padded or reshaped view of."""
    producer = {o: n for n in graph.node for o in n.output}
    while tensor in producer and producer[tensor].op_type in PASSES_ON:
        tensor = producer[tensor].input[0]
    return tensor


def branches(graph: GraphProto, add: NodeProto) -> tuple[str, str]:
    """Main and residual input of an Add: the main one comes from the block's last convolution."""
    name = {o: n.name for n in graph.node for o in n.output}
    last = [t for t in add.input if name.get(t, "").endswith((".conv2", ".conv3"))]
    assert len(last) == 1
    (other,) = (t for t in add.input if t != last[0])
    return last[0], other


def test_the_input_of_every_weighted_layer_is_quantized(graph: GraphProto) -> None:
    placement = place(graph)
    layers = nodes(graph, "Conv", "Gemm")
    assert list(placement.weighted) == [n.output[0] for n in layers]
    for node in [*layers, *nodes(graph, "GlobalAveragePool")]:
        assert behind(graph, node.input[0]) in placement.engine_points


def test_a_max_pool_has_its_input_quantized_instead_of_its_output(graph: GraphProto) -> None:
    placement = place(graph)
    for pool in nodes(graph, "MaxPool"):
        assert pool.input[0] in placement.engine_points
    for node in nodes(graph, *PASSES_ON):
        assert node.output[0] not in placement.tensors


def test_networks_of_the_imagenet_layout_do_have_a_max_pool(
    exported: Callable[[str], Bundle],
) -> None:
    for name in ("basic", "bottleneck", "uint8"):
        assert nodes(load_graph(exported(name).artifact(MODEL)).graph, "MaxPool")


@residual
def test_of_every_add_the_residual_input_is_quantized_and_the_main_one_not(
    graph: GraphProto,
) -> None:
    placement = place(graph)
    adds = nodes(graph, "Add")
    assert set(placement.main_inputs) == {a.output[0] for a in adds} != set()
    for add in adds:
        main, other = branches(graph, add)
        assert placement.main_inputs[add.output[0]] == main
        assert main not in placement.engine_points
        assert behind(graph, other) in placement.engine_points


@residual
def test_a_block_input_read_twice_is_one_point(graph: GraphProto) -> None:
    placement = place(graph)
    readers = GraphIndex(graph).consumers
    shared = [t for t in placement.engine_points if len(readers[t]) > 1]
    assert shared
    assert len(set(placement.engine_points)) == len(placement.engine_points)


def test_nothing_but_the_planned_tensors_is_quantized(graph: GraphProto) -> None:
    wanted = {behind(graph, n.input[0]) for n in nodes(graph, "Conv", "Gemm", "GlobalAveragePool")}
    wanted |= {behind(graph, branches(graph, add)[1]) for add in nodes(graph, "Add")}
    assert set(place(graph).engine_points) == wanted


def test_points_stand_in_the_order_of_the_graph(graph: GraphProto) -> None:
    order = [i.name for i in graph.input] + [o for n in graph.node for o in n.output]
    placement = place(graph)
    for points in (placement.engine_points, placement.twin_points):
        assert list(points) == sorted(points, key=order.index)


def test_the_twin_knows_every_tensor_between_integer_operators(graph: GraphProto) -> None:
    placement, index = place(graph), GraphIndex(graph)
    first = nodes(graph, "Conv")[0].input[0]
    assert placement.twin_points[0] == first
    for node in nodes(graph, "Conv", "Gemm", "Add", "GlobalAveragePool", "Relu"):
        reader = index.only_consumer(node.output[0])
        absorbed = reader is not None and reader.op_type == "Relu"
        is_logits = node.output[0] in index.outputs
        assert (node.output[0] in placement.twin_points) == (not absorbed and not is_logits)


def test_logits_are_never_quantized(graph: GraphProto) -> None:
    assert not {o.name for o in graph.output} & set(place(graph).tensors)


def test_raw_pixels_are_not_quantized_before_they_are_normalised(
    exported: Callable[[str], Bundle],
) -> None:
    graph = load_graph(exported("uint8").artifact(MODEL)).graph
    before = {"input"} | {o for n in nodes(graph, "Cast", "Transpose", "Sub") for o in n.output}
    assert not before & set(place(graph).tensors)
    (scaled,) = nodes(graph, "Div")
    assert place(graph).engine_points[0] == scaled.output[0]


def test_a_graph_that_was_not_simplified_gives_the_same_plan(
    exported: Callable[[str], Bundle], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(exported("resnet20"))
    assert checkpoint is not None
    raw = export(checkpoint, tmp_path / "raw", ExportConfig(simplify=False)).bundle
    graph = load_graph(raw.artifact(MODEL)).graph
    placement = place(graph)
    assert len(nodes(graph, "Slice")) > 2
    for add in nodes(graph, "Add"):
        assert placement.main_inputs[add.output[0]] == branches(graph, add)[0]


def block(shortcut: str, add: str) -> Placement:
    """Plan a block of two convolutions and a shortcut, its Add written as given."""
    text = f"""
    block (float[n, 4, 8, 8] image) => (float[n, 8, 4, 4] out) {{
        x = Relu(image)
        a = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w1)
        b = Relu(a)
        main = Conv <pads=[1,1,1,1]> (b, w2)
        {shortcut}
        sum = Add({add})
        out = Relu(sum)
    }}"""
    constants = {
        "w1": np.ones((8, 4, 3, 3), np.float32),
        "w2": np.ones((8, 8, 3, 3), np.float32),
        "w3": np.ones((8, 4, 1, 1), np.float32),
        "starts": np.array([0]),
        "ends": np.array([8]),
        "two": np.array([2]),
        "h": np.array([2]),
        "w": np.array([3]),
        "pads": np.array([0, 2, 0, 0, 0, 2, 0, 0]),
    }
    return place(onnx_model(text, **constants).graph)


PROJECTION = "skip = Conv <strides=[2,2]> (x, w3)"
OPTION_A = """s1 = Slice(x, starts, ends, h, two)
        s2 = Slice(s1, starts, ends, w, two)
        skip = Pad(s2, pads)"""


@pytest.mark.parametrize("shortcut", [PROJECTION, OPTION_A], ids=["projection", "option A"])
@pytest.mark.parametrize("add", ["main, skip", "skip, main"])
def test_the_main_branch_is_known_whatever_the_order_of_the_operands(
    shortcut: str, add: str
) -> None:
    placement = block(shortcut, add)
    assert placement.main_inputs == {"sum": "main"}
    assert "main" not in placement.engine_points
    assert ("skip" in placement.engine_points) == (shortcut == PROJECTION)


@pytest.mark.parametrize("add", ["y, x", "x, y"])
def test_an_identity_shortcut_shares_the_point_of_the_block_input(add: str) -> None:
    text = f"""
    block (float[n, 4, 8, 8] x) => (float[n, 4, 8, 8] out) {{
        y = Conv <pads=[1,1,1,1]> (x, weight)
        out = Add({add})
    }}"""
    placement = place(onnx_model(text, weight=np.ones((4, 4, 3, 3), np.float32)).graph)
    assert placement.engine_points == ("x",)
    assert placement.main_inputs == {"out": "y"}


def test_an_added_constant_is_no_residual() -> None:
    text = """
    g (float[n, 4, 8, 8] x) => (float[n, 4, 8, 8] out) {
        y = Conv <pads=[1,1,1,1]> (x, weight)
        out = Add(y, bias)
    }"""
    constants = {"weight": np.ones((4, 4, 3, 3), np.float32), "bias": np.ones((4, 1, 1))}
    placement = place(onnx_model(text, **constants).graph)
    assert placement.main_inputs == {}
    assert placement.engine_points == ("x",)


@pytest.mark.parametrize(
    ("node", "answer"),
    [
        (onnx.helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), True),
        (onnx.helper.make_node("Pad", ["x", "p"], ["y"]), True),
        (onnx.helper.make_node("Pad", ["x", "p"], ["y"], mode="reflect"), False),
        (onnx.helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2]), False),
        (onnx.helper.make_node("Relu", ["x"], ["y"]), False),
    ],
    ids=["max-pool", "zero pad", "reflecting pad", "average pool", "relu"],
)
def test_only_operators_that_commute_with_rounding_pass_a_range_on(
    node: NodeProto, answer: bool
) -> None:
    assert commutes(node) is answer


def test_a_model_with_q_and_dq_is_refused() -> None:
    text = """
    g (float[n, 4, 8, 8] x) => (float[n, 4, 8, 8] y) {
        q = QuantizeLinear(x, scale)
        d = DequantizeLinear(q, scale)
        y = Conv <pads=[1,1,1,1]> (d, weight)
    }"""
    constants = {"scale": np.float32(0.1), "weight": np.ones((4, 4, 3, 3), np.float32)}
    with pytest.raises(GraphError, match="already explicitly quantized") as caught:
        place(onnx_model(text, **constants).graph)
    assert "float model" in (caught.value.hint or "")


def test_a_graph_without_weights_is_refused() -> None:
    with pytest.raises(GraphError, match="no Conv or Gemm"):
        place(onnx_model("g (float[n] x) => (float[n] y) { y = Relu(x) }").graph)
    text = "g (float[1,1,3,3] x, float[1,1,3,3] w) => (float[1,1,1,1] y) { y = Conv(x, w) }"
    with pytest.raises(GraphError, match="constant weights"):
        place(onnx_model(text).graph)
