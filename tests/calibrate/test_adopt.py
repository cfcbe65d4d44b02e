"""Ranges of other tools: TensorRT caches and Q/DQ models in place of a calibration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from resnet_edge.backends.tensorrt.calibration_cache import read_cache
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import CACHE, GRAPHS, MODEL, TABLE
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.bundle.reference import Golden
from resnet_edge.calibrate.adopt import adopt
from resnet_edge.errors import CalibrationError, GraphError
from resnet_edge.export.foreign.import_onnx import ImportConfig, import_onnx
from resnet_edge.graph.nodes import GraphIndex
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.stand_in import stand_in
from resnet_edge.images.spec import ImageSpec
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.stage import float_layers, quantize
from tests.conftest import require
from tests.export.foreign.models import run_original
from tests.quantize.graphs import float_net, foreign

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

require("onnxruntime")
INT8 = [g for g in GRAPHS if g.startswith("int8")]


@pytest.fixture(params=["tiny", "basic", "bottleneck", "resnet20"])
def pair(
    request: pytest.FixtureRequest, calibrated: Callable[[str], Bundle], tmp_path: Path
) -> tuple[Bundle, Bundle]:
    """A calibrated bundle, and its copy without the calibration."""
    source, copy = (
        Path(shutil.copytree(calibrated(request.param).path, tmp_path / name))
        for name in ("source", "copy")
    )
    (copy / TABLE).unlink()
    (copy / CACHE).unlink()
    return Bundle.open(source), Bundle.open(copy)


def weights_of(model: ModelProto) -> list[str]:
    return [n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm")]


def test_our_own_cache_gives_the_graphs_it_was_written_with(pair: tuple[Bundle, Bundle]) -> None:
    source, copy = pair
    result = adopt(copy, source.file(CACHE), "cache")
    assert not result.cached
    assert result.table.images == ()
    for graph in INT8:
        theirs, ours = (load_graph(quantize(b, graph).path) for b in pair)
        assert [n.op_type for n in ours.graph.node] == [n.op_type for n in theirs.graph.node]
        one, other = GraphIndex(ours.graph), GraphIndex(theirs.graph)
        for name in one.initializers:
            a, b = one.constant(name), other.constant(name)
            assert a is not None
            assert b is not None
            if a.dtype.kind == "f":
                assert np.allclose(a, b, rtol=1e-3), name
            else:  # biases are stored in steps of a scale that may differ in the last bit
                assert np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0) <= max(
                    1, 1e-6 * np.abs(b.astype(np.int64)).max(initial=0)
                ), name
    assert read_cache(copy.file(CACHE)) == pytest.approx(read_cache(source.file(CACHE)))
    again = adopt(Bundle.open(copy.path), source.file(CACHE), "cache")
    assert again.cached
    assert again.table == result.table


def test_a_cache_as_tensorrt_writes_it_is_understood(
    exported: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(exported("tiny").path, tmp_path / "bundle")))
    tensors = place(load_graph(bundle.artifact(MODEL)).graph).tensors
    lines = ["TRT-100300-EntropyCalibration2", "(Unnamed Layer* 3) [Constant]:0_output: 3c010204"]
    lines += [f"{name}: {'3d000000' if i else '800000'}" for i, name in enumerate(tensors)]
    (tmp_path / "int8.cache").write_text("\n".join(lines))
    table = adopt(bundle, tmp_path / "int8.cache", "cache").table
    assert set(table.tensors) == set(tensors)
    assert table.tensors[tensors[1]].amax == pytest.approx(127 / 32)
    assert table.tensors[tensors[0]].amax == pytest.approx(127 * 2.0**-126)  # unpadded digits


def test_a_cache_of_another_network_is_refused_with_what_it_lacks(
    calibrated: Callable[[str], Bundle], exported: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(exported("resnet20").path, tmp_path / "bundle")))
    cache = calibrated("tiny").file(CACHE)
    with pytest.raises(
        CalibrationError, match=r"no range for \d+ of the \d+ tensors.*and \d+ more"
    ):
        adopt(bundle, cache, "cache")
    lines = calibrated("resnet20").file(CACHE).read_text().splitlines()
    (tmp_path / "short.cache").write_text("\n".join(lines[:1] + lines[2:]))
    with pytest.raises(CalibrationError, match=r"no range for 1 of the .*: input$"):
        adopt(bundle, tmp_path / "short.cache", "cache")
    assert TABLE not in Bundle.open(bundle.path).names()


def imported(tmp_path: Path) -> Bundle:
    """``float_net``, whose input is called x, as a bundle."""
    onnx.save(float_net(), tmp_path / "float_net.onnx")
    spec = ImageSpec(resize=16, crop=(16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    return import_onnx(
        tmp_path / "float_net.onnx", tmp_path / "bundle", ImportConfig(image_spec=spec)
    ).bundle


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activation", ["int8", "uint8"])
def test_the_ranges_of_an_onnx_runtime_model_serve_every_graph(
    tmp_path: Path, activation: str, symmetric: bool
) -> None:
    bundle = imported(tmp_path)
    path = foreign(tmp_path, activation=activation, symmetric=symmetric, bias=True)
    table = adopt(bundle, path, "qdq").table
    assert table.recipe == {"name": "foreign.onnx", "method": "qdq"}
    assert "input" in table.tensors  # called x in their file
    golden = Golden.load(bundle)
    x = bundle.model.image_spec.to_input(golden.pixels)
    spread = golden.logits.max(1).mean() - golden.logits.min(1).mean()
    for graph in INT8:
        logits = run_original(stand_in(load_graph(quantize(bundle, graph).path)), x)
        assert np.abs(logits - golden.logits).max() < 0.2 * spread, graph
    assert float_layers(bundle) == ()


def cut(model: ModelProto, *tensors: str) -> ModelProto:
    """Take the Q/DQ pairs of some float tensors out again."""
    index = GraphIndex(model.graph)
    for tensor in tensors:
        for q in [n for n in index.consumers[tensor] if n.op_type == "QuantizeLinear"]:
            for dq in index.consumers[q.output[0]]:
                for reader in index.consumers[dq.output[0]]:
                    for position, name in enumerate(reader.input):
                        if name == dq.output[0]:
                            reader.input[position] = tensor
            model.graph.node.remove(q)
    return model


CUTS = {
    "f": ["y"],  # the last layer, as ModelOpt leaves it for a batch of one
    "r3": ["y"],  # what the global pool reads
    "p1": ["c2", "c3"],  # a skip, and the layer that reads the same tensor
    "x": ["c1"],
}


@pytest.mark.parametrize("tensor", CUTS)
def test_what_another_tool_left_in_float_stays_in_float(tmp_path: Path, tensor: str) -> None:
    bundle = imported(tmp_path)
    path = foreign(tmp_path, activation="int8", symmetric=True, bias=False)
    also = {"f": "g", "p1": "r1"}.get(tensor, tensor)  # what commutes has a pair on either side
    onnx.save(cut(onnx.load(path), *sorted({tensor, also})), path)
    adopt(bundle, path, "qdq")
    outputs = {n.name: n.output[0] for n in load_graph(bundle.artifact(MODEL)).graph.node}
    kept = [outputs[name] for name in float_layers(bundle)]
    renamed = {"y": "logits"}
    assert kept == [renamed.get(name, name) for name in CUTS[tensor]]
    quantized = load_graph(quantize(bundle, "int8").path)
    float_weights = [w for w in weights_of(quantized) if not w.endswith("_dequantized")]
    assert len(float_weights) == len(kept)


def test_ranges_the_cpu_twin_lacks_are_named_when_it_is_made(
    calibrated: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(calibrated("basic").path, tmp_path / "bundle")))
    ours = quantize(bundle, "int8").path  # has no pair behind the main branch of an Add
    adopt(bundle, ours, "qdq")
    assert set(RangesTable.load(bundle.file(TABLE)).tensors) == set(
        place(load_graph(bundle.artifact(MODEL)).graph).engine_points
    )
    quantize(bundle, "int8-fp16")
    with pytest.raises(GraphError, match="no range for") as caught:
        quantize(bundle, "int8-cpu")
    assert "taken over" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"not a cache", "cache", "not a TensorRT calibration cache"),
        (b"TRT-1-EntropyCalibration2\nx: zz\n", "cache", "line 2"),
        (b"garbage", "qdq", "cannot be read as ONNX"),
    ],
)
def test_other_files_are_refused_and_change_nothing(
    calibrated: Callable[[str], Bundle], tmp_path: Path, content: bytes, kind: Any, message: str
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(calibrated("tiny").path, tmp_path / "bundle")))
    before = bundle.file(TABLE).read_bytes()
    (tmp_path / "file").write_bytes(content)
    with pytest.raises((CalibrationError, GraphError), match=message):
        adopt(bundle, tmp_path / "file", kind)
    assert bundle.file(TABLE).read_bytes() == before


def test_a_float_model_has_no_ranges_to_take_over(
    calibrated: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(calibrated("tiny").path, tmp_path / "bundle")))
    with pytest.raises(CalibrationError, match="no quantized activations"):
        adopt(bundle, bundle.artifact(MODEL), "qdq")
