from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import GRAPHS, MODEL, TABLE, GraphKind
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.bundle.reference import Golden
from resnet_edge.errors import BundleError, CalibrationError
from resnet_edge.graph.onnx_model import load_graph, save_graph
from resnet_edge.quantize.stage import quantize
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable

require("onnxruntime")
MADE: tuple[GraphKind, ...] = tuple(g for g in GRAPHS if g != "fp32")
INT8: tuple[GraphKind, ...] = tuple(g for g in MADE if g.startswith("int8"))


@pytest.fixture
def bundle(calibrated: Callable[[str], Bundle], tmp_path: Path) -> Bundle:
    """A calibrated bundle for one test alone."""
    return Bundle.open(Path(shutil.copytree(calibrated("tiny").path, tmp_path / "bundle")))


def recalibrate(bundle: Bundle, **changes: str) -> None:
    """Double every range, as another calibration might have found, and change the table."""
    table = RangesTable.load(bundle.artifact(TABLE))
    tensors = {n: replace(r, amax=2 * r.amax) for n, r in table.tensors.items()}
    replace(table, tensors=tensors, **changes).save(bundle.file(TABLE))
    bundle.record(TABLE, Record("calibrate"))


def change_model(bundle: Bundle) -> None:
    model = load_graph(bundle.artifact(MODEL))
    model.doc_string = "another export"
    save_graph(model, bundle.file(MODEL))
    bundle.record(MODEL, Record("export"))


def stamp(bundle: Bundle, name: str) -> tuple[str, int]:
    """Differs whenever the file has been written again."""
    return bundle.sha256(name), bundle.file(name).stat().st_ino


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_is_recorded_valid_and_runs(bundle: Bundle, graph: GraphKind) -> None:
    result = quantize(bundle, graph)
    reopened = Bundle.open(bundle.path)
    assert reopened.artifact(result.name) == result.path
    onnx.checker.check_model(load_graph(result.path), full_check=True)
    golden = Golden.load(bundle)
    with OnnxRuntimeSession(result.path) as session:
        logits = session.run({"input": bundle.model.image_spec.to_input(golden.pixels)})["logits"]
    assert logits.shape == golden.logits.shape
    assert np.isfinite(logits).all()


def test_every_graph_has_a_file_of_its_own(bundle: Bundle) -> None:
    names = {quantize(bundle, graph).name for graph in GRAPHS}
    assert len(names) == len(GRAPHS)
    assert len({bundle.sha256(name) for name in names}) == len(GRAPHS)
    assert quantize(bundle, "fp32").name == MODEL


@pytest.mark.parametrize("graph", MADE)
def test_a_second_call_finds_the_graph_in_the_bundle(bundle: Bundle, graph: GraphKind) -> None:
    first = quantize(bundle, graph)
    before = stamp(bundle, first.name)
    again = quantize(Bundle.open(bundle.path), graph)
    assert (first.cached, again.cached) == (False, True)
    assert (again.name, again.path) == (first.name, first.path)
    assert stamp(bundle, first.name) == before


def test_the_twins_weights_are_those_this_processor_needs_unless_told(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_edge.quantize import stage

    made = {}
    for saturates in (False, True):
        monkeypatch.setattr(stage, "sums_saturate", lambda found=saturates: found)
        result = quantize(bundle, "int8-cpu")
        assert not result.cached
        assert bundle.entry(result.name).config["reduce_range"] is saturates
        assert quantize(bundle, "int8-cpu", reduce_range=saturates).cached
        made[saturates] = result.path.read_bytes()
    assert made[False] != made[True]
    quantize(bundle, "int8-cpu", reduce_range=False)
    assert bundle.file("model.int8-cpu.onnx").read_bytes() == made[False]
    assert "reduce_range" not in bundle.entry(quantize(bundle, "int8").name).config


@pytest.mark.parametrize("graph", INT8)
def test_other_ranges_make_an_int8_graph_stale(bundle: Bundle, graph: GraphKind) -> None:
    quantize(bundle, graph)
    before = bundle.sha256(f"model.{graph}.onnx")
    recalibrate(bundle)
    again = quantize(bundle, graph)
    assert not again.cached
    assert bundle.sha256(again.name) != before


def test_other_ranges_do_not_touch_the_fp16_graph(bundle: Bundle) -> None:
    quantize(bundle, "fp16")
    recalibrate(bundle)
    assert quantize(bundle, "fp16").cached


def test_another_model_makes_the_fp16_graph_stale(bundle: Bundle) -> None:
    quantize(bundle, "fp16")
    change_model(bundle)
    assert not quantize(bundle, "fp16").cached


@pytest.mark.parametrize("graph", INT8)
@pytest.mark.parametrize("cached", [False, True])
def test_ranges_of_an_earlier_model_are_refused(
    bundle: Bundle, graph: GraphKind, cached: bool
) -> None:
    if cached:
        quantize(bundle, graph)
    change_model(bundle)
    with pytest.raises(CalibrationError, match="earlier export") as caught:
        quantize(bundle, graph)
    assert "calibrate again" in (caught.value.hint or "")


@pytest.mark.parametrize("graph", INT8)
def test_int8_without_a_calibration_is_refused_with_the_command_that_makes_one(
    exported: Callable[[str], Bundle], graph: GraphKind
) -> None:
    bundle = exported("tiny")
    with pytest.raises(CalibrationError, match="no calibration") as caught:
        quantize(bundle, graph)
    assert f"resnet-edge calibrate {bundle.path}" in (caught.value.hint or "")
    assert f"model.{graph}.onnx" not in bundle.names()


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_model_that_was_changed_behind_the_bundle_is_refused(
    bundle: Bundle, graph: GraphKind
) -> None:
    content = bundle.file(MODEL).read_bytes()
    bundle.file(MODEL).write_bytes(content[:-1])
    with pytest.raises(BundleError, match="not the file the bundle recorded"):
        quantize(bundle, graph)


def test_a_damaged_graph_is_made_again(bundle: Bundle) -> None:
    name = quantize(bundle, "int8").name
    before = bundle.sha256(name)
    bundle.file(name).write_bytes(b"damaged")
    assert not quantize(bundle, "int8").cached
    assert bundle.sha256(name) == before
