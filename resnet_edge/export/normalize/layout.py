"""Graph passes that bring the input to N x C x H x W and take Transposes out of the way."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from resnet_edge.export.normalize.passes import bypass, rename
from resnet_edge.export.normalize.shapes import store
from resnet_edge.graph.nodes import GraphIndex, attribute, insert_sorted

__all__ = ["sink_transposes", "take_nchw"]

_TO_NHWC = (0, 2, 3, 1)
_ELEMENTWISE = ("Cast", "Relu", "Clip", "Neg", "Sigmoid", "Add", "Sub", "Mul", "Div")


def take_nchw(model: ModelProto) -> None:
    """Let a model whose input is N x H x W x C take N x C x H x W.

    Afterwards: the input is in that layout, and only one Transpose reads it.
    """
    graph = model.graph
    (value,) = graph.input
    batch, height, width, channels = (d.dim_value for d in value.type.tensor_type.shape.dim)
    dims = value.type.tensor_type.shape.dim
    for dim, extent in zip(dims, (batch, channels, height, width), strict=True):
        dim.dim_value = extent
    inner = f"{value.name}_nhwc"
    rename(graph, {value.name: inner})
    graph.node.insert(0, helper.make_node("Transpose", [value.name], [inner], perm=_TO_NHWC))


def sink_transposes(model: ModelProto) -> None:
    """Move a Transpose behind elementwise operators where another one follows, and merge the two.

    Afterwards: no Transpose reaches another through elementwise operators alone, and none is
    cast afterwards (TensorRT does not transpose integers).
    """
    graph = model.graph
    changed = False
    while any(_sink(model, n) for n in graph.node if n.op_type == "Transpose"):
        changed = True
    if changed:
        insert_sorted(graph, list(graph.node))


def _sink(model: ModelProto, node: NodeProto) -> bool:
    """Move one Transpose one step down; tell whether it could be."""
    index = GraphIndex(model.graph)
    order, reader = list(attribute(node, "perm", [])), index.only_consumer(node.output[0])
    if not order or reader is None:
        return False
    if reader.op_type == "Transpose":
        merged = [order[i] for i in attribute(reader, "perm", range(len(order))[::-1])]
        del reader.attribute[:]
        reader.attribute.append(helper.make_attribute("perm", merged))
        bypass(model.graph, node)
        if merged == sorted(merged):
            bypass(model.graph, reader)
        return True
    if reader.op_type != "Cast" and not _meets_transpose(reader, index):
        return False
    for position, name in enumerate(reader.input):
        value = index.constant(name)
        if value is not None and value.ndim:
            wide = value.reshape(*[1] * (len(order) - value.ndim), *value.shape)
            moved = wide.transpose(np.argsort(order))
            reader.input[position] = store(model, f"{name}_transposed", moved)
        elif name == node.output[0]:
            reader.input[position] = node.input[0]
    node.input[0], node.output[0] = node.output[0], reader.output[0]
    reader.output[0] = node.input[0]
    return True


def _meets_transpose(node: NodeProto, index: GraphIndex) -> bool:
    """Whether only elementwise operators with constants lie between here and a Transpose."""
    reader: NodeProto | None = node
    while reader is not None and reader.op_type in _ELEMENTWISE:
        if sum(bool(name) and index.constant(name) is None for name in reader.input) != 1:
            return False
        reader = index.only_consumer(reader.output[0])
    return reader is not None and reader.op_type == "Transpose"
