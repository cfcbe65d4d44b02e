"""Graph passes on layers with weights: Conv and fully connected ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from resnet_edge.export.normalize.shapes import store, tensor_shapes
from resnet_edge.graph.nodes import GraphIndex, attribute, prune

__all__ = ["count_parameters", "dense_to_gemm", "fold_affine", "give_own_weights"]


def count_parameters(model: ModelProto) -> int:
    """Count the trained numbers of convolutions, matrix products and batch norms.

    The running statistics of a batch norm are not trained. A tensor that several layers share
    counts once.
    """
    from math import prod

    trained = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2)}
    used = {
        node.input[position]
        for node in model.graph.node
        for position in trained.get(node.op_type, ())
        if position < len(node.input)
    }
    return sum(prod(i.dims) for i in model.graph.initializer if i.name in used)


def dense_to_gemm(model: ModelProto) -> None:
    """Write fully connected layers as quantize wants them.

    Afterwards: a product of a matrix and a stored matrix is a Gemm with the output channels first
    (transB=1), factors of 1, and a bias of one number per channel.
    """
    shapes = tensor_shapes(model)
    for node in model.graph.node:
        weight = None
        if node.op_type in ("MatMul", "Gemm") and len(shapes.get(node.input[0], ())) == 2:
            weight = GraphIndex(model.graph).constant(node.input[1])
        if weight is None or weight.ndim != 2:
            continue
        if node.op_type == "MatMul":
            _write_gemm(model, node, weight.T, None)
        elif not attribute(node, "transA", 0):
            _turn_gemm(model, node, weight)
    prune(model.graph)


def _turn_gemm(model: ModelProto, node: NodeProto, weight: NDArray[Any]) -> None:
    if not attribute(node, "transB", 0):
        weight = weight.T
    bias = None
    if len(node.input) > 2 and node.input[2]:
        value = GraphIndex(model.graph).constant(node.input[2])
        bias = None if value is None else _per_channel(value, 2, len(weight))
        if bias is None:
            return
        bias = bias * attribute(node, "beta", 1.0)
    _write_gemm(model, node, weight * np.float32(attribute(node, "alpha", 1.0)), bias)


def _write_gemm(
    model: ModelProto, node: NodeProto, weight: NDArray[Any], bias: NDArray[Any] | None
) -> None:
    node.op_type = "Gemm"
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("transB", 1))
    _set_constant(model, node, 1, weight)
    if bias is not None:
        _set_constant(model, node, 2, bias)


def fold_affine(model: ModelProto) -> None:
    """Merge per-channel scales and shifts into the layer in front of them.

    Afterwards: no BatchNormalization and no Add, Sub, Mul or Div with one number per channel
    reads a Conv or Gemm that nothing else reads.
    """
    for layer in list(model.graph.node):
        while layer.op_type in ("Conv", "Gemm") and _fold_next(model, layer):
            pass
    prune(model.graph)


def _fold_next(model: ModelProto, layer: NodeProto) -> bool:
    index = GraphIndex(model.graph)
    weight, reader = index.constant(layer.input[1]), index.only_consumer(layer.output[0])
    if weight is None or reader is None or (layer.op_type == "Gemm" and weight.ndim != 2):
        return False
    if layer.op_type == "Gemm" and not attribute(layer, "transB", 0):
        return False
    bias: NDArray[Any] | None = np.zeros(len(weight))
    if len(layer.input) > 2 and layer.input[2]:
        bias = index.constant(layer.input[2])
    affine = _affine(reader, layer.output[0], index, weight.ndim, len(weight))
    if bias is None or affine is None:
        return False
    scale, shift = affine
    _set_constant(model, layer, 1, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)))
    _set_constant(model, layer, 2, bias * scale + shift)
    layer.output[0] = reader.output[0]
    model.graph.node.remove(reader)
    return True


def _affine(
    node: NodeProto, tensor: str, index: GraphIndex, rank: int, channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the scale and the shift that a node applies to a tensor, one per channel."""
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "BatchNormalization" and node.input[0] == tensor:
        found = [index.constant(name) for name in node.input[1:5]]
        if any(v is None for v in found):
            return None
        gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in found)
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    first = node.input[0] == tensor
    constant = index.constant(node.input[1 if first else 0])
    value = None if constant is None else _per_channel(constant, rank, channels)
    if value is None:
        return None
    if node.op_type == "Add":
        return one, value
    if node.op_type == "Sub":
        return (one, -value) if first else (-one, value)
    if node.op_type == "Mul":
        return value, zero
    return (1 / value, zero) if first and value.all() else None


def give_own_weights(model: ModelProto) -> None:
    """Copy weights and biases that several nodes share, as quantization gives each its own scales.

    Afterwards: nothing else reads an initializer that a Conv or Gemm has as its weight or bias.
    """
    index = GraphIndex(model.graph)
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(index.outputs)
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        for position, part in enumerate(("weight", "bias"), start=1):
            name = node.input[position] if position < len(node.input) else ""
            value = index.constant(name)
            if value is not None and uses[name] > 1:
                node.input[position] = store(model, f"{node.name or node.output[0]}.{part}", value)
                uses[name] -= 1


def _per_channel(value: NDArray[Any], rank: int, channels: int) -> NDArray[np.float64] | None:
    """Return one number per channel, if that is what a value broadcasts to (channels axis 1)."""
    shape = (*[1] * (rank - value.ndim), *value.shape)
    if len(shape) != rank or shape[1] not in (1, channels) or value.size != shape[1]:
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), channels)


def _set_constant(model: ModelProto, node: NodeProto, position: int, value: NDArray[Any]) -> None:
    """Give a node a float32 constant, under the old one's name where nobody else reads that."""
    value = np.ascontiguousarray(value, np.float32)
    index = GraphIndex(model.graph)
    while len(node.input) <= position:
        node.input.append("")
    name = node.input[position]
    if name in index.initializers and len(index.consumers[name]) == 1:
        index.initializers[name].CopyFrom(numpy_helper.from_array(value, name))
    else:
        fallback = node.input[1].removesuffix(".weight") + (".weight", ".bias")[position - 1]
        node.input[position] = store(model, name or fallback, value)
