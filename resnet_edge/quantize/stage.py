"""The quantize stage: a ranges table and a float model to the graph a builder takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import BASE, FLOAT_LAYERS, MODEL, TABLE, GraphKind, graph_name
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.device.cpu import sums_saturate
from resnet_edge.errors import BundleError, CalibrationError
from resnet_edge.files import read_json, write_json
from resnet_edge.graph.onnx_model import load_graph, save_graph
from resnet_edge.quantize.fp16 import to_fp16
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import Weights, engine_graph, twin_graph
from resnet_edge.quantize.stem import block_the_stem

__all__ = [
    "QuantizeResult",
    "base_model",
    "base_name",
    "float_layers",
    "layers_chosen_on",
    "load_table",
    "quantize",
    "store_float_layers",
]


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


def quantize(
    bundle: Bundle,
    graph: GraphKind,
    *,
    keep_float: Collection[str] | None = None,
    reduce_range: bool | None = None,
) -> QuantizeResult:
    """Make one of the bundle's graphs, unless it is already there.

    Args:
        bundle: Holds the float model and, for INT8, a ranges table.
        graph: ``fp32`` the float model itself; ``fp16`` its cast; ``int8`` Q/DQ with FP32 rest,
            read by every TensorRT; ``int8-fp16`` Q/DQ with FP16 rest and stored int8 weights, for
            strongly typed builders; ``int8-cpu`` the CPU twin for ONNX Runtime.
        keep_float: Layers that are not quantized; default those of the stored plan.
        reduce_range: For ``int8-cpu``: 7-bit weights, for an x86 without VNNI; default as this
            machine needs it.

    Raises:
        CalibrationError: INT8 is asked for and there are no ranges, or those of another model.
    """
    if graph == "fp32":
        return QuantizeResult(MODEL, bundle.artifact(MODEL), cached=True)
    name = graph_name(graph)
    config: dict[str, Any] = {"graph": graph}
    inputs = {"model": bundle.sha256(MODEL)}
    if graph != "fp16":
        inputs["ranges"] = bundle.sha256(TABLE) if TABLE in bundle.names() else ""
        kept = float_layers(bundle) if keep_float is None else keep_float
        config["keep_float"] = sorted(kept)
    if graph == "int8-cpu":
        config["reduce_range"] = sums_saturate() if reduce_range is None else reduce_range
    record = Record(stage="quantize", config=config, inputs=inputs)
    if bundle.is_fresh(name, record):
        return QuantizeResult(name, bundle.file(name), cached=True)
    if graph == "fp16":
        converted = to_fp16(load_graph(bundle.artifact(MODEL)))
    else:
        reduced = config.get("reduce_range", False)
        converted = _quantized(bundle, graph, config["keep_float"], reduced)
    save_graph(converted, bundle.file(name))
    bundle.record(name, record)
    return QuantizeResult(name, bundle.file(name), cached=False)


def load_table(bundle: Bundle) -> RangesTable:
    """Return the bundle's ranges.

    Raises:
        CalibrationError: There are none, or they belong to an earlier export.
    """
    try:
        table = RangesTable.load(bundle.artifact(TABLE))
    except BundleError as error:
        raise CalibrationError(
            f"{bundle.path} has no calibration, which INT8 needs",
            hint=f"add --data DIR, or run: resnet-edge calibrate {bundle.path} --data DIR",
        ) from error
    if _base_name(bundle, table) is None:
        raise CalibrationError(
            f"the calibration in {bundle.path} belongs to an earlier export of the model",
            hint=f"calibrate again: resnet-edge calibrate {bundle.path} --data DIR",
        )
    return table


def base_name(bundle: Bundle) -> str:
    """Return the float model the ranges belong to: as exported, or as calibration changed it.

    Raises:
        CalibrationError: There are no ranges, or they belong to an earlier export.
    """
    name = _base_name(bundle, load_table(bundle))
    assert name is not None  # load_table refuses a table without a model
    return name


def base_model(bundle: Bundle) -> ModelProto:
    """Load the float model the ranges belong to; see `base_name`."""
    return load_graph(bundle.artifact(base_name(bundle)))


def store_float_layers(bundle: Bundle, plan: Mapping[str, Any]) -> None:
    """Store which layers stay in float, for every later graph of the present calibration.

    Args:
        bundle: With a calibration.
        plan: JSON values; ``keep_float`` holds the names, ``chosen_on`` the content hash of every
            image they were chosen on, if any.
    """
    write_json(bundle.file(FLOAT_LAYERS), dict(plan))
    inputs = {"ranges": bundle.sha256(TABLE)}
    bundle.record(FLOAT_LAYERS, Record(stage="quantize", inputs=inputs))


def float_layers(bundle: Bundle) -> tuple[str, ...]:
    """Return the layers that stay in float under the present calibration.

    Raises:
        BundleError: The stored plan is damaged.
    """
    return tuple(_planned(bundle).get("keep_float", ()))


def layers_chosen_on(bundle: Bundle) -> frozenset[str]:
    """Return the content hash of every image that the stored plan was chosen on.

    Raises:
        BundleError: The stored plan is damaged.
    """
    return frozenset(_planned(bundle).get("chosen_on", ()))


def _planned(bundle: Bundle) -> dict[str, list[str]]:
    """Return the lists of the plan that belongs to the present calibration, none without one."""
    if FLOAT_LAYERS not in bundle.names() or TABLE not in bundle.names():
        return {}
    if bundle.entry(FLOAT_LAYERS).inputs.get("ranges") != bundle.sha256(TABLE):
        return {}
    value = read_json(bundle.artifact(FLOAT_LAYERS))
    lists = value if isinstance(value, dict) else {}
    found = {"keep_float": lists.get("keep_float"), "chosen_on": lists.get("chosen_on", [])}
    if not all(isinstance(part, list) for part in found.values()):
        raise BundleError(f"{bundle.file(FLOAT_LAYERS)} is damaged", hint="quantize again")
    return {key: [str(name) for name in part] for key, part in found.items()}


def _base_name(bundle: Bundle, table: RangesTable) -> str | None:
    """Return which artifact the ranges belong to, None if neither the model nor one made of it."""
    model = bundle.sha256(MODEL)
    if table.model_sha256 == model:
        return MODEL
    made_of = bundle.entry(BASE).inputs.get("model") if BASE in bundle.names() else None
    return BASE if made_of == model and bundle.sha256(BASE) == table.model_sha256 else None


def _quantized(
    bundle: Bundle, graph: GraphKind, keep_float: Collection[str], reduce_range: bool
) -> ModelProto:
    model, table = base_model(bundle), load_table(bundle)
    if graph == "int8-cpu":
        placement = place(model.graph, keep_float=keep_float)
        twin = twin_graph(model, placement, table.tensors, reduce_range=reduce_range)
        block_the_stem(twin)
        return twin
    if graph == "int8-fp16":
        model = to_fp16(model)
    placement = place(model.graph, keep_float=keep_float)
    weights: Weights = "int8" if graph == "int8-fp16" else "float"
    return engine_graph(model, placement, table.tensors, weights=weights)
