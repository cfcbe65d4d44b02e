"""Ranges that follow from others: what a calibration cache holds beside the measured ones."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto

from resnet_edge.graph.nodes import GraphIndex
from resnet_edge.graph.operators import commutes

__all__ = ["derive_ranges"]


def derive_ranges(graph: GraphProto, ranges: Mapping[str, float]) -> dict[str, float]:
    """Add ranges that follow from others, so that TensorRT finds one wherever it looks.

    What an operator that commutes with quantization gives has the range of what it takes. What
    only a ReLU reads gets the range of the ReLU's output: the part below zero, which that range
    may clip, is lost in the ReLU anyway.

    Args:
        graph: The float network.
        ranges: ``amax`` by tensor name.
    """
    filled, index = dict(ranges), GraphIndex(graph)
    for node in graph.node:
        if commutes(node) and node.input[0] in filled:
            filled.setdefault(node.output[0], filled[node.input[0]])
    for node in reversed(graph.node):
        absorbs = node.op_type == "Relu" and index.only_consumer(node.input[0]) is not None
        if absorbs and node.output[0] in filled:
            filled.setdefault(node.input[0], filled[node.output[0]])
    return filled
