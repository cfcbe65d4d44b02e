"""Simplify an exported graph and bring it to the opset that every target reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from resnet_edge.errors import ExportError
from resnet_edge.export.normalize.layers import give_own_weights
from resnet_edge.export.normalize.passes import pool_globally
from resnet_edge.graph.relabel import set_opset

__all__ = [
    "IR_VERSION",
    "OPSET",
    "SimplifyResult",
    "drop_exporter_metadata",
    "run_onnxsim",
    "simplify",
]

# TensorRT 8.4–8.6 stop at opset 17; every later version and RTX read it.
OPSET, IR_VERSION = 17, 8


@dataclass(frozen=True)
class SimplifyResult:
    """A simplified model.

    Attributes:
        model: Opset 17, IR 8.
        before: Number of nodes by operator.
        after: The same after simplification.
    """

    model: ModelProto
    before: Mapping[str, int]
    after: Mapping[str, int]


def simplify(model: ModelProto, *, fold: bool = True) -> SimplifyResult:
    """Fold constants and batch norms with onnxsim, then normalise the pooling head and the opset.

    Args:
        model: Any exported classifier.
        fold: False leaves onnxsim out and only normalises.

    Raises:
        ExportError: onnxsim could not show that its result equals its input.
        GraphError: An operator cannot be expressed in opset 17.
    """
    before = Counter(n.op_type for n in model.graph.node)
    if fold:
        model = run_onnxsim(model)
    pool_globally(model)
    give_own_weights(model)
    drop_exporter_metadata(model)
    set_opset(model, OPSET, IR_VERSION)
    after = Counter(n.op_type for n in model.graph.node)
    return SimplifyResult(model, dict(before), dict(after))


def run_onnxsim(model: ModelProto) -> ModelProto:
    """Fold constants and batch norms with onnxsim.

    Raises:
        ExportError: It failed, or could not show that its result equals its input.
    """
    try:
        import onnxsim

        model, equal = onnxsim.simplify(model)
    except Exception as error:
        raise ExportError(
            f"onnxsim failed: {error}", hint="run again with --no-simplify"
        ) from error
    if not equal:
        raise ExportError(
            "onnxsim's result does not equal its input", hint="run again with --no-simplify"
        )
    return model


def drop_exporter_metadata(model: ModelProto) -> None:
    """Name weighted nodes after their weights; drop the exporter's notes, which hold file paths."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight"):
            node.name = node.input[1].removesuffix(".weight")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""
