"""Graphs for old parsers compute what the newer ones compute."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.build.opset import relabelled_name, within_opset
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.catalog.targets import list_targets, load_target
from resnet_edge.errors import ConfigError
from resnet_edge.graph.onnx_model import load_graph, save_graph
from resnet_edge.graph.relabel import opset_of
from resnet_edge.quantize.stage import quantize
from tests.conftest import onnx_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_edge.bundle.names import GraphKind


@pytest.fixture
def copy(calibrated: Callable[[str], Bundle], tmp_path: Path) -> Callable[[str], Bundle]:
    def make(name: str) -> Bundle:
        return Bundle.open(Path(shutil.copytree(calibrated(name).path, tmp_path / "bundle")))

    return make


@pytest.mark.parametrize("graph", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["basic", "bottleneck", "uint8", "resnet20"])
def test_every_block_computes_the_same_in_opset_13(
    copy: Callable[[str], Bundle], name: str, graph: GraphKind
) -> None:
    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
    from resnet_edge.bundle.reference import Golden

    bundle = copy(name)
    source = quantize(bundle, graph).name
    lower = within_opset(bundle, source, 13)
    assert lower == source.removesuffix(".onnx") + "-opset13.onnx"
    model = load_graph(bundle.artifact(lower))
    assert (opset_of(model), model.ir_version) == (13, 7)
    feed = {"input": bundle.model.image_spec.to_input(Golden.load(bundle).pixels)}
    with (
        OnnxRuntimeSession(bundle.file(source), optimise="none") as session,
        OnnxRuntimeSession(bundle.file(lower), optimise="none") as older,
    ):
        np.testing.assert_array_equal(older.run(feed)["logits"], session.run(feed)["logits"])


def test_a_graph_that_is_old_enough_or_whose_parser_is_unknown_stays(
    copy: Callable[[str], Bundle],
) -> None:
    bundle = copy("tiny")
    before = bundle.names()
    assert [within_opset(bundle, "model.onnx", newest) for newest in (None, 17, 20)] == [
        "model.onnx"
    ] * 3
    assert bundle.names() == before


def test_a_relabelled_graph_is_made_again_when_its_source_changes(
    copy: Callable[[str], Bundle],
) -> None:
    bundle = copy("tiny")
    lower = bundle.file(within_opset(bundle, "model.onnx", 13))
    made = lower.stat().st_mtime_ns
    within_opset(bundle, "model.onnx", 13)
    assert lower.stat().st_mtime_ns == made
    model = load_graph(bundle.artifact("model.onnx"))
    model.graph.node[0].name = "renamed"
    save_graph(model, bundle.file("model.onnx"))
    bundle.record("model.onnx", Record("export"))
    within_opset(bundle, "model.onnx", 13)
    assert load_graph(lower).graph.node[0].name == "renamed"


@pytest.mark.parametrize(
    ("body", "opset", "reason"),
    [
        ("y = HardSwish(x)", 17, "HardSwish"),
        ("y = LayerNormalization(x, one)", 17, "LayerNormalization"),
        ("y = Cast <to=1, saturate=0> (x)", 19, "saturate"),
        ("h = Cast <to=10> (x) q = QuantizeLinear(h, half, zero)\n"
         "d = DequantizeLinear(q, half, zero) y = Cast <to=1> (d)", 19, "float16"),
    ],
)  # fmt: skip
def test_what_an_old_parser_cannot_read_is_refused_with_the_way_out(
    copy: Callable[[str], Bundle], body: str, opset: int, reason: str
) -> None:
    bundle = copy("tiny")
    constants = {"one": np.ones(4, np.float32), "half": np.float16(1), "zero": np.int8(0)}
    model = onnx_model(f"g (float[2,4] x) => (float[2,4] y) {{ {body} }}", opset=opset, **constants)
    save_graph(model, bundle.file("model.onnx"))
    bundle.record("model.onnx", Record("export"))
    with pytest.raises(ConfigError, match=reason) as caught:
        within_opset(bundle, "model.onnx", 13)
    assert f"has opset {opset}, this TensorRT reads 13 at most" in caught.value.message
    assert "opset 13" in str(caught.value.hint)
    assert not bundle.file("model-opset13.onnx").exists()


@pytest.mark.parametrize(
    ("target", "tensorrt", "opset"),
    [
        ("jetson-nano", "8.2.1", 13), ("jetson-tx2", "8.0.1", 13),
        ("jetson-xavier-nx", "8.2.1", 13), ("jetson-xavier-nx", "8.5.2", 17),
        ("jetson-agx-orin-64gb", "10.3.0", 20), ("jetson-agx-orin-64gb", "11.4.1", 25),
        ("a10", "8.6.1", 17), ("h100", "10.13.3", 20), ("t4", "11.4.0", 20),
        ("jetson-nano", "8.6.1", None), ("rtx-4090", "1.7.1.116", None), ("cpu", "1.24.4", None),
    ],
)  # fmt: skip
def test_the_ceiling_is_that_of_the_version_on_this_target(
    target: str, tensorrt: str, opset: int | None
) -> None:
    assert load_target(target).opset_max(tensorrt) == opset


def test_every_target_reads_what_its_newest_version_is_given() -> None:
    """FP16 scales need opset 19, and strongly typed builders, from 10 on, get them."""
    for target in list_targets():
        for software in target.software:
            assert software.opset_max is not None, target.name
            newest = software.tensorrt[1]
            assert software.opset_max >= (19 if int(newest.split(".")[0]) >= 10 else 13)


def test_a_name_says_which_opset() -> None:
    assert relabelled_name("model.int8.onnx", 17, 13) == "model.int8-opset13.onnx"
    assert relabelled_name("model.int8.onnx", 13, 13) == "model.int8.onnx"
    assert relabelled_name("model.int8.onnx", 17, None) == "model.int8.onnx"
