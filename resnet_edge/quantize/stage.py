"""The quantize stage: a ranges table and a float model to the graph a builder takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from resnet_edge.bundle import Record
from resnet_edge.calibrate.stage import TABLE
from resnet_edge.calibrate.table import RangesTable
from resnet_edge.errors import BundleError, CalibrationError
from resnet_edge.export import MODEL
from resnet_edge.graph import load_graph, save_graph
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.precision import to_fp16
from resnet_edge.quantize.qdq import engine_graph, twin_graph

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.bundle import Bundle

__all__ = ["GRAPHS", "Graph", "QuantizeResult", "quantize"]

Graph = Literal["fp32", "fp16", "int8", "int8-fp16", "int8-cpu"]
GRAPHS: tuple[Graph, ...] = get_args(Graph)


@dataclass(frozen=True)
class QuantizeResult:
    """A graph in the bundle.

    Attributes:
        name: Its relative path.
        path: Its path.
        cached: True if the bundle already held this very graph.
    """

    name: str
    path: Path
    cached: bool


def quantize(bundle: Bundle, graph: Graph) -> QuantizeResult:
    """Make one of the bundle's graphs, unless it is already there.

    Args:
        bundle: Holds the float model and, for INT8, a ranges table.
        graph: ``fp32`` the float model itself; ``fp16`` its cast; ``int8`` Q/DQ with FP32 rest,
            read by every TensorRT; ``int8-fp16`` Q/DQ with FP16 rest and stored int8 weights, for
            strongly typed builders; ``int8-cpu`` the CPU twin for ONNX Runtime.

    Raises:
        CalibrationError: INT8 is asked for and there are no ranges, or those of another model.
    """
    if graph == "fp32":
        return QuantizeResult(MODEL, bundle.artifact(MODEL), cached=True)
    name = f"model.{graph}.onnx"
    inputs = {"model": bundle.sha256(MODEL)}
    if graph != "fp16":
        inputs["ranges"] = bundle.sha256(TABLE) if TABLE in bundle.names() else ""
    record = Record(stage="quantize", config={"graph": graph}, inputs=inputs)
    if bundle.is_fresh(name, record):
        return QuantizeResult(name, bundle.file(name), cached=True)
    model = load_graph(bundle.artifact(MODEL))
    save_graph(_convert(bundle, model, graph), bundle.file(name))
    bundle.record(name, record)
    return QuantizeResult(name, bundle.file(name), cached=False)


def _convert(bundle: Bundle, model: ModelProto, graph: Graph) -> ModelProto:
    if graph == "fp16":
        return to_fp16(model)
    table = _table(bundle)
    if graph == "int8-cpu":
        return twin_graph(model, place(model.graph), table)
    if graph == "int8-fp16":
        model = to_fp16(model)
    return engine_graph(model, place(model.graph), table, int8_weights=graph == "int8-fp16")


def _table(bundle: Bundle) -> RangesTable:
    try:
        table = RangesTable.load(bundle.artifact(TABLE))
    except BundleError as error:
        raise CalibrationError(
            f"{bundle.path} has no calibration, which INT8 needs",
            hint=f"add --data DIR, or run: resnet-edge calibrate {bundle.path} --data DIR",
        ) from error
    if table.model_sha256 != bundle.sha256(MODEL):
        raise CalibrationError(
            f"the calibration in {bundle.path} belongs to an earlier export of the model",
            hint=f"calibrate again: resnet-edge calibrate {bundle.path} --data DIR",
        )
    return table
