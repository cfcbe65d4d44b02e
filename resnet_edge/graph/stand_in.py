"""The graph that ONNX Runtime runs in an engine's place: FP32 sums, FP16 where the graph says so.

Left alone, ONNX Runtime's CPU provider computes FP16 graphs in FP32 and takes out the casts between
two operations, with optimisations off too: only weights are rounded, and nothing overflows. Here
everything is FP32, and each result that the graph declares FP16 is rounded to it and back; an
Identity between the two casts keeps ONNX Runtime from taking them for superfluous. Its own FP16
QuantizeLinear, which cuts off instead of rounding in 1.23, is not used either.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resnet_edge.graph.nodes import GraphIndex, attribute, insert_sorted
from resnet_edge.graph.operators import DQ, Q

__all__ = ["halves", "stand_in"]

_FLOAT, _HALF = 1, 10  # onnx.TensorProto.FLOAT and FLOAT16
# What they return is among their inputs, or is zero.
_EXACT = {
    "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "GlobalMaxPool", "Max", "Min",
    "Clip", "Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def stand_in(model: ModelProto) -> ModelProto:
    """Make every FP16 tensor FP32, rounded to FP16 where it is computed, in place.

    Inputs and outputs of the graph keep their types. A graph without FP16 stays as it is.
    """
    named = halves(model)
    if not named:
        return model
    nodes = []
    index = GraphIndex(model.graph)
    for node in list(model.graph.node):
        nodes += _widened(model, node, index, named)
    for tensor in model.graph.initializer:
        if tensor.data_type == _HALF:
            _widen(tensor)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in named:
            nodes.append(_bounded(nodes, value.name))
    del model.graph.value_info[:]
    insert_sorted(model.graph, nodes)
    return model


def halves(model: ModelProto) -> set[str]:
    """Return the names of a graph's FP16 tensors."""
    graph = model.graph
    found = {i.name for i in graph.input if i.type.tensor_type.elem_type == _HALF}
    found |= {t.name for t in graph.initializer if t.data_type == _HALF}
    for node in graph.node:
        if _makes_half(node, found):
            found |= set(node.output)
    return found


def _makes_half(node: NodeProto, known: Collection[str]) -> bool:
    if node.op_type == "Cast":
        return bool(attribute(node, "to") == _HALF)
    if node.op_type == "Constant":
        value = attribute(node, "value")
        return value is not None and value.data_type == _HALF
    if node.op_type == DQ:
        return node.input[1] in known
    return node.op_type not in (Q, "Shape") and any(i in known for i in node.input)


def _widened(
    model: ModelProto, node: NodeProto, index: GraphIndex, named: Collection[str]
) -> list[NodeProto]:
    """Return what an operation becomes in FP32."""
    if not any(o in named for o in node.output):
        if node.op_type == "Cast" and node.input[0] in named and attribute(node, "to") == _FLOAT:
            return [helper.make_node("Identity", node.input, node.output, name=node.name)]
        return [node]
    result = node.output[0]
    if node.op_type == "Constant":
        _widen(attribute(node, "value"))
        return [node]
    if node.op_type == DQ and node.input[0] in index.initializers:
        model.graph.initializer.append(numpy_helper.from_array(_dequantized(node, index), result))
        return []
    if node.op_type == "Cast":
        return _rounding(node.input[0], result)
    if node.op_type in _EXACT:
        return [node]
    node.output[0] = f"{result}/fp32"
    return [node, *_rounding(node.output[0], result)]


def _rounding(source: str, result: str) -> list[NodeProto]:
    """Return what rounds an FP32 tensor to FP16 and back."""
    half, held = f"{result}/fp16", f"{result}/fp16-held"
    return [
        helper.make_node("Cast", [source], [half], name=half, to=_HALF),
        helper.make_node("Identity", [half], [held], name=held),
        helper.make_node("Cast", [held], [result], name=f"{result}/rounded", to=_FLOAT),
    ]


def _bounded(nodes: list[NodeProto], name: str) -> NodeProto:
    """Return the cast between an FP16 input or output of the graph and its FP32 inside."""
    inside, made = f"{name}/inside", any(name in node.output for node in nodes)
    for node in nodes:
        for names in (node.input, node.output):
            for position, found in enumerate(names):
                if found == name:
                    names[position] = inside
    source, result, kind = (inside, name, _HALF) if made else (name, inside, _FLOAT)
    return helper.make_node("Cast", [source], [result], name=f"{name}/bound", to=kind)


def _widen(tensor: TensorProto) -> None:
    """Make an FP16 constant FP32, in place."""
    value = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _dequantized(node: NodeProto, index: GraphIndex) -> NDArray[Any]:
    """Return stored int8 weights as FP16 sees them, in FP32."""
    values, scale = (index.constant(name) for name in node.input[:2])
    assert values is not None
    assert scale is not None
    steps = values.astype(np.float32)
    zero = index.constant(node.input[2]) if len(node.input) > 2 else None
    shape = [1] * values.ndim
    if scale.ndim:
        shape[attribute(node, "axis", 1)] = -1
    if zero is not None:
        steps -= zero.astype(np.float32).reshape(shape)
    product = steps * scale.astype(np.float32).reshape(shape)
    return product.astype(np.float16).astype(np.float32)
