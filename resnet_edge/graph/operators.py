"""Kinds of operators that quantization tells apart."""

from __future__ import annotations

from onnx import NodeProto

from resnet_edge.graph.nodes import attribute

__all__ = ["COMMUTING", "DQ", "MULTIPLYING", "WEIGHTED", "Q", "commutes"]

Q, DQ = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = ("Conv", "Gemm")
MULTIPLYING = (*WEIGHTED, "MatMul")
COMMUTING = ("MaxPool", "Slice", "Pad", "Reshape", "Flatten", "Identity", "Squeeze")


def commutes(node: NodeProto) -> bool:
    """Whether Q(op(x)) == op(Q(x)) for this node."""
    if node.op_type == "Pad":
        return bool(attribute(node, "mode", b"constant") == b"constant")
    return node.op_type in COMMUTING
