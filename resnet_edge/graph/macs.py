"""Multiply-adds of an ONNX graph, by layer."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from onnx import ModelProto

from resnet_edge.graph.nodes import attribute
from resnet_edge.graph.onnx_model import infer_shapes
from resnet_edge.graph.operators import MULTIPLYING

__all__ = ["layer_macs"]


def layer_macs(model: ModelProto, operators: Collection[str] = MULTIPLYING) -> dict[str, int]:
    """Return the multiply-adds of every convolution and matrix product for one image.

    Every output takes as many as its kernel, or its row of the other matrix, has values. What does
    not depend on the image, and what has no known shape, is left out.

    Args:
        model: Of any batch; image and channels have known extents.
        operators: Kinds of nodes to count.

    Returns:
        By the node's name, else its output's.
    """
    shapes = {
        name: tuple(1 if extent is None else extent for extent in shape)
        for name, shape in infer_shapes(model).items()
    } | {i.name: tuple(i.dims) for i in model.graph.initializer}
    batch = shapes[model.graph.input[0].name][0]
    found = {}
    for node in model.graph.node:
        if node.op_type not in operators:
            continue
        left, right, out = (shapes.get(n) for n in (*node.input[:2], node.output[0]))
        if left is None or right is None or out is None:
            continue
        if node.op_type == "Conv":
            depth = prod(right[1:])
        else:
            depth = left[0] if attribute(node, "transA", 0) else left[-1]
        found[node.name or node.output[0]] = prod(out) * depth // batch
    return found
