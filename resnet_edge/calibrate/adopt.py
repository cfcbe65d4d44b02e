"""Ranges that another tool has found, taken over in place of a calibration.

A TensorRT calibration cache names tensors of the network it was made for; one that does not name
what is to be quantized belongs to another network and is refused. A Q/DQ model says more: a layer
whose input it does not quantize stays in float.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from onnx import GraphProto, NodeProto

from resnet_edge.backends.tensorrt.calibration_cache import read_cache, write_cache
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import CACHE, MODEL, TABLE
from resnet_edge.bundle.provenance import model_record
from resnet_edge.bundle.ranges_table import RangesTable, TensorRange
from resnet_edge.calibrate.derived_ranges import derive_ranges
from resnet_edge.calibrate.from_qdq import ranges_from_qdq
from resnet_edge.calibrate.stage import CalibrationResult
from resnet_edge.errors import CalibrationError
from resnet_edge.files import sha256_file
from resnet_edge.graph.nodes import GraphIndex
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.operators import WEIGHTED, commutes
from resnet_edge.quantize.placement import origin_of, place, reader_behind
from resnet_edge.quantize.stage import store_float_layers

__all__ = ["adopt"]

log = logging.getLogger(__name__)

_POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")
_POOLS = ("AveragePool", "GlobalAveragePool")
_SHOWN = 5


def adopt(bundle: Bundle, file: Path, kind: Literal["cache", "qdq"]) -> CalibrationResult:
    """Take over the ranges of a TensorRT calibration cache or of a Q/DQ model.

    Which images they come from is unknown, so `verify` cannot refuse them. A tensor that only the
    CPU twin quantizes may be missing; the twin cannot be made then.

    Args:
        bundle: With the float model the ranges belong to.
        file: A ``TRT-…-EntropyCalibration2`` cache, or an ONNX model.
        kind: Which of the two.

    Raises:
        CalibrationError: The file is neither, or has no range for what is to be quantized.
        GraphError: The ONNX model cannot be read.
    """
    record = Record(
        stage="calibrate",
        config={"from": kind},
        inputs={"model": bundle.sha256(MODEL), "ranges": sha256_file(file)},
    )
    if bundle.is_fresh(TABLE, record) and bundle.is_fresh(CACHE, record):
        return CalibrationResult(RangesTable.load(bundle.artifact(TABLE)), cached=True)
    ranges = read_cache(file) if kind == "cache" else ranges_from_qdq(load_graph(file))
    original_input = model_record(bundle).input
    if original_input in ranges:  # an import renames the input
        ranges["input"] = ranges[original_input]
    graph = load_graph(bundle.artifact(MODEL)).graph
    keep_float = _layers_without_range(graph, ranges) if kind == "qdq" else []
    placement = place(graph, keep_float=keep_float)
    absent = [t for t in placement.engine_points if t not in ranges]
    if absent or not placement.weighted:
        raise CalibrationError(
            f"{file} has no range for {len(absent) or 'any'} of the {len(placement.engine_points)} "
            f"tensors to quantize{': ' if absent else ''}{_listed(absent)}",
            hint="it belongs to another network, or to another export of this one",
        )
    only_twin = [t for t in placement.twin_points if t not in ranges]
    if only_twin:
        log.warning(
            "%s has no range for %s, which the CPU twin needs: --target cpu will not take INT8",
            file, _listed(only_twin),
        )  # fmt: skip
    if keep_float:
        log.warning("in float, as in %s: %s", file, ", ".join(keep_float))
    log.warning("the images behind these ranges are unknown: verify on others, it cannot tell")
    index = GraphIndex(graph)
    table = RangesTable(
        tensors={t: _range(t, ranges[t], index) for t in placement.tensors if t in ranges},
        recipe={"name": file.name, "method": kind},
        model_sha256=bundle.sha256(MODEL),
        images=(),
        skipped=0,
    )
    table.save(bundle.file(TABLE))
    write_cache(derive_ranges(graph, table.amax), bundle.file(CACHE))
    bundle.record(CACHE, record)
    bundle.record(TABLE, record)
    if keep_float:
        store_float_layers(bundle, {"keep_float": keep_float, "from": file.name})
    return CalibrationResult(table, cached=False)


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _range(tensor: str, amax: float, index: GraphIndex) -> TensorRange:
    """Return a range whose extremes, which are unknown, at least have the right signs."""
    return TensorRange(amax, 0.0 if _never_negative(tensor, index) else -amax, amax, {})


def _never_negative(tensor: str, index: GraphIndex) -> bool:
    node = index.producer.get(tensor)
    if node is None:
        return False
    if node.op_type == "Clip":
        low = index.constant(node.input[1]) if len(node.input) > 1 else None
        return low is not None and bool(low >= 0)
    if node.op_type == "Add" or node.op_type in _POOLS or commutes(node):
        sources = node.input if node.op_type == "Add" else node.input[:1]
        return all(_never_negative(name, index) for name in sources)
    return node.op_type in _POSITIVE


def _layers_without_range(graph: GraphProto, ranges: Mapping[str, float]) -> list[str]:
    """Return the layers that would need a range which is not there."""
    index = GraphIndex(graph)
    keep: list[str] = []
    while True:
        placement = place(graph, keep_float=keep)
        absent = {t for t in placement.engine_points if t not in ranges}
        found: list[str] = []
        for node in graph.node:
            main = placement.main_inputs.get(node.output[0])
            read = {origin_of(name, index) for name in node.input if name and name != main}
            if node.output[0] in placement.float_nodes or not absent & read:
                continue
            layer: NodeProto | None = node
            if main is not None:  # the convolution that this Add is fused with
                layer = index.producer.get(main)
            elif node.op_type == "GlobalAveragePool":
                layer = reader_behind(node.output[0], index)
            if layer is not None and layer.op_type in WEIGHTED and layer.name not in keep:
                found.append(str(layer.name))
        if not found:
            return keep
        keep += found
