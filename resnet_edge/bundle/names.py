"""The name of every artifact of a bundle, in one place."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "BASE",
    "CACHE",
    "EVALUATION",
    "FLOAT_LAYERS",
    "GOLDEN",
    "GRAPHS",
    "LOCK",
    "MANIFEST",
    "MODEL",
    "PARTIAL",
    "SENSITIVITY",
    "TABLE",
    "GraphKind",
    "graph_name",
]

MODEL, GOLDEN, EVALUATION = "model.onnx", "reference.npz", "evaluation.npz"
TABLE, CACHE = "calibration.json", "calibration.cache"
BASE = "model.base.onnx"  # the float model as the bake-off changed it
PARTIAL = "calibration.partial.npz"  # of a pass that was interrupted
FLOAT_LAYERS = "quantization.json"
GraphKind = Literal["fp32", "fp16", "int8", "int8-fp16", "int8-cpu"]
GRAPHS: tuple[GraphKind, ...] = get_args(GraphKind)
SENSITIVITY = "reports/sensitivity.json"
MANIFEST = "bundle.json"
LOCK = ".bundle.lock"  # held while the manifest is read, merged and written


def graph_name(graph: GraphKind) -> str:
    """Return the artifact that holds this form of the model."""
    return MODEL if graph == "fp32" else f"model.{graph}.onnx"
