from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from resnet_edge.errors import BundleError, GraphError
from resnet_edge.graph.nodes import GraphIndex, attribute, insert_sorted, prune
from resnet_edge.graph.onnx_model import load_graph, save_graph
from resnet_edge.graph.relabel import opset_of, set_opset
from tests.conftest import full_disk, onnx_model

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

CHAIN = "g (float[n] x) => (float[n] d) { a = Relu(x)\n b = Neg(a)\n c = Abs(b)\n d = Add(c, a) }"


@pytest.fixture
def model() -> ModelProto:
    return onnx_model(CHAIN)


def names(model: ModelProto) -> list[str]:
    return [n.output[0] for n in model.graph.node]


def test_a_saved_model_is_loaded_again(model: ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "new" / "m.onnx")
    assert load_graph(tmp_path / "new" / "m.onnx") == model


def test_weights_in_a_second_file_are_loaded(tmp_path: Path) -> None:
    weight = np.arange(4096, dtype=np.float32)
    model = onnx_model("g (float[4096] x) => (float[4096] y) { y = Add(x, w) }", w=weight)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    loaded = load_graph(tmp_path / "m.onnx")
    value = GraphIndex(loaded.graph).constant("w")
    assert np.array_equal(value, weight)  # type: ignore[arg-type]
    (tmp_path / "m.data").unlink()
    with pytest.raises(GraphError, match="cannot be read") as caught:
        load_graph(tmp_path / "m.onnx")
    assert "external data" in (caught.value.hint or "")


@given(content=st.binary(max_size=60) | st.just(onnx_model(CHAIN).SerializeToString()[:-9]))
def test_any_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"any\.onnx"):
        load_graph(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(GraphError, match="no such ONNX file"):
            load_graph(path)


def test_an_invalid_model_is_not_written(model: ModelProto, tmp_path: Path) -> None:
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(GraphError, match=r"m\.onnx is not valid ONNX"):
        save_graph(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_model(model: ModelProto, tmp_path: Path) -> None:
    save_graph(model, tmp_path / "m.onnx")
    large = onnx_model(
        "g (float[9999] x) => (float[9999] y) { y = Add(x, w) }", w=np.ones(9999, np.float32)
    )
    with full_disk(), pytest.raises(BundleError, match="cannot write"):
        save_graph(large, tmp_path / "m.onnx")
    assert load_graph(tmp_path / "m.onnx") == model


def test_an_index_knows_makers_readers_and_outputs(model: ModelProto) -> None:
    index = GraphIndex(model.graph)
    assert index.producer["b"].op_type == "Neg"
    assert "x" not in index.producer
    assert [n.op_type for n in index.consumers["a"]] == ["Neg", "Add"]
    assert index.outputs == {"d"}
    assert index.only_consumer("b") == index.producer["c"]
    assert index.only_consumer("a") is None
    assert index.only_consumer("nothing") is None


def test_an_output_that_is_also_read_has_no_only_consumer() -> None:
    text = "g (float[n] x) => (float[n] a, float[n] b) { a = Relu(x)\n b = Neg(a) }"
    assert GraphIndex(onnx_model(text).graph).only_consumer("a") is None


def test_constants_are_initializers_and_constant_nodes() -> None:
    text = """
    g (float[2] x) => (float[2] z) {
        c = Constant <value = float[2] {3, 4}> ()
        y = Add(x, w)
        z = Add(y, c)
    }"""
    index = GraphIndex(onnx_model(text, w=np.array([1, 2], np.float32)).graph)
    for name, value in (("w", [1, 2]), ("c", [3, 4])):
        found = index.constant(name)
        assert found is not None
        assert found.tolist() == value
    assert index.constant("x") is index.constant("y") is index.constant("nothing") is None


def test_attributes_have_defaults() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")
    assert attribute(node, "strides") == [2, 2]
    assert attribute(node, "auto_pad") == b"SAME_UPPER"
    assert attribute(node, "group") is None
    assert attribute(node, "group", 1) == 1


def test_the_opset_is_that_of_the_default_domain(model: ModelProto) -> None:
    model.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    assert opset_of(model) == 17


RESNET_OPS = """
g (float[n,2,8,8] x) => (float[n,4] y) {
    a = Conv <pads=[1,1,1,1]> (x, w)
    b = Relu(a)
    p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (b)
    s = Slice(p, starts, ends, axes, steps)
    q = Pad(s, pads)
    g = GlobalAveragePool(q)
    f = Reshape(g, shape)
    y = Gemm <transB=1> (f, fc)
}"""
CONSTANTS: dict[str, Any] = {
    "w": np.ones((2, 2, 3, 3), np.float32),
    "starts": np.array([0]),
    "ends": np.array([8]),
    "axes": np.array([2]),
    "steps": np.array([2]),
    "pads": np.array([0, 1, 0, 0, 0, 1, 0, 0]),
    "shape": np.array([0, -1]),
    "fc": np.ones((4, 4), np.float32),
}


def test_a_resnet_means_the_same_in_opset_17_and_18() -> None:
    model = onnx_model(RESNET_OPS, opset=18, **CONSTANTS)
    nodes = list(model.graph.node)
    set_opset(model, 17, 8)
    assert (opset_of(model), model.ir_version) == (17, 8)
    assert len(model.opset_import) == 1
    assert list(model.graph.node) == nodes
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    ("body", "have", "want"),
    [
        ("y = ReduceMean <keepdims=1> (x, two)", 18, 17),
        ("y = ReduceMean <axes=[2,3]> (x)", 17, 18),
        ("y = Pad(x, pads, , two)", 18, 17),
        ('y = Resize <mode="linear"> (x, , scales)', 18, 17),
        ("y = Unheard(x)", 18, 17),
        ("y = Mish(x)", 18, 17),
        ("y = Squeeze <axes=[0]> (x)", 11, 17),
        ("y = Pad <pads=[0,0,1,1,0,0,1,1]> (x)", 10, 17),
    ],
)
def test_an_operator_that_means_something_else_is_refused(body: str, have: int, want: int) -> None:
    text = f"g (float[1,2,8,8] x) => (float[a,b,c,d] y) {{ {body} }}"
    constants = {"two": np.array([2]), "pads": np.array([1, 1]), "scales": np.ones(4, np.float32)}
    model = onnx_model(text, opset=have, **constants)
    before = model.SerializeToString()
    with pytest.raises(GraphError, match=body.split()[2].partition("(")[0]):
        set_opset(model, want, 8)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("y = Reshape <allowzero=1> (x, rows)", set()),
        ("y = Reshape <allowzero=0> (x, zero)", set()),
        ("y = Reshape <allowzero=1> (x, zero)", {"allowzero"}),  # the 0 is meant literally
        ("y = Reshape <allowzero=1> (x, shape)", {"allowzero"}),  # nobody knows the shape
        ("y = Cast <to=1, saturate=1> (x)", {"to"}),
        ("y = Cast <to=1, saturate=0> (x)", {"to", "saturate"}),
        ("y = Cast <to=1, unheard=1> (x)", {"to", "unheard"}),
    ],
)
def test_attributes_that_say_nothing_go_and_others_stay(body: str, kept: set[str]) -> None:
    text = f"g (float[2,8] x, int64[2] shape) => (float[a,b] y) {{ {body} }}"
    model = onnx_model(text, opset=19, rows=np.array([-1, 8]), zero=np.array([0, 8]))
    set_opset(model, 13, 7)
    assert {item.name for item in model.graph.node[0].attribute} == kept


def test_a_custom_operator_is_refused(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    with pytest.raises(GraphError, match=r"com\.example::Relu is not standard"):
        set_opset(model, 18, 8)


def test_pruning_removes_what_no_output_needs() -> None:
    text = """
    g (float[1] x) => (float[1] y) {
        a = Add(x, w)
        dead = Neg(a)
        deader = Add(dead, unused)
        y = Relu(a)
    }"""
    one = np.ones(1, np.float32)
    model = onnx_model(text, w=one, unused=one, orphan=one)
    prune(model.graph)
    assert names(model) == ["a", "y"]
    assert [i.name for i in model.graph.initializer] == ["w"]
    onnx.checker.check_model(model, full_check=True)


def test_pruning_a_tidy_graph_changes_nothing(model: ModelProto) -> None:
    before = model.SerializeToString()
    prune(model.graph)
    assert model.SerializeToString() == before


@given(order=st.permutations(range(4)))
def test_nodes_in_any_order_are_sorted(order: list[int]) -> None:
    model = onnx_model(CHAIN)
    nodes = list(model.graph.node)
    insert_sorted(model.graph, [nodes[i] for i in order])
    assert names(model) == ["a", "b", "c", "d"]
    onnx.checker.check_model(model, full_check=True)


def test_sorting_keeps_optional_inputs_and_initializers() -> None:
    text = "g (float[1] x) => (float[1] y) { a = Clip(x, , high)\n y = Relu(a) }"
    model = onnx_model(text, high=np.float32(1))
    insert_sorted(model.graph, list(reversed(model.graph.node)))
    assert names(model) == ["a", "y"]


@pytest.mark.parametrize("extra", ["b", "d", "nowhere"])
def test_cycles_and_dangling_inputs_are_found(model: ModelProto, extra: str) -> None:
    nodes = list(model.graph.node)
    nodes[1].input[0] = extra  # b = Neg(extra)
    before = names(model)
    with pytest.raises(GraphError, match="cycle or a dangling input"):
        insert_sorted(model.graph, nodes)
    assert names(model) == before
