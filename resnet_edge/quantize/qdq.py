"""Write Q/DQ pairs into a float graph: the TensorRT graph and the CPU twin.

The two are never confused: the TensorRT graph leaves the main branch of every residual Add
unquantized, as TensorRT fuses it; the CPU twin quantizes every tensor, as ONNX Runtime needs it
to run integer kernels from end to end.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.bundle.ranges_table import Ranges, TensorRange
from resnet_edge.errors import GraphError
from resnet_edge.graph.operators import commutes
from resnet_edge.quantize.fp16 import HALF
from resnet_edge.quantize.placement import Placement
from resnet_edge.quantize.weights import quantize_weight, round_weight, weight_scales
from resnet_edge.quantize.writer import DEQUANTIZED, Pair, Writer, scale_name
from resnet_edge.tensors import QMAX

__all__ = ["Weights", "engine_graph", "engine_scales", "twin_graph"]

Weights = Literal["float", "int8", "rounded"]

_REDUCED = 64  # of 127: 2 x 255 x 64 fits int16
_UMAX = 255
_ZERO = 128  # zero-point of a signed tensor stored as uint8


def engine_graph(
    model: ModelProto, placement: Placement, ranges: Ranges, *, weights: Weights
) -> ModelProto:
    """Return the TensorRT graph: symmetric int8 Q/DQ with zero-points of 0, biases float.

    Args:
        model: Float graph, FP32 or FP16; the scales take its type (opset 19 for FP16 scales).
        placement: Where the pairs go.
        ranges: Those of the placement's engine points.
        weights: ``float`` keeps float weights with Q and DQ (every TensorRT); ``int8`` stores
            integers with a DQ only (RTX and strongly typed TensorRT); ``rounded`` stores what
            either dequantizes to, without nodes: not for TensorRT, but to be run here, where the
            conversions would be repeated in every call.
    """
    writer = Writer(model)
    scales = engine_scales(placement, ranges, writer.dtype)
    for tensor in placement.engine_points:
        pair = Pair(scales[scale_name(tensor)], np.zeros((), np.int8))
        dequantized = writer.pair(tensor, pair)
        for node in writer.index.consumers[tensor]:
            output = node.output[0]
            skip = placement.main_inputs.get(output) == tensor or output in placement.float_nodes
            if not skip and (node.op_type in _QUANTIZABLE or commutes(node)):
                writer.rewire(node, tensor, dequantized)
    for node in writer.weighted(placement):
        name, weight = node.input[1], writer.constant(node.input[1])
        steps = weight_scales(weight)
        pair = Pair(steps, np.zeros(len(steps), np.int8), axis=0)
        if weights == "float":
            writer.rewire(node, name, writer.pair(name, pair))
        elif weights == "int8":
            writer.rewire(node, name, writer.dequantize(name, quantize_weight(weight, steps), pair))
        else:
            writer.rewire(node, name, writer.add(f"{name}_rounded", round_weight(weight, steps)))
    return writer.finish()


def engine_scales(placement: Placement, ranges: Ranges, dtype: Any) -> dict[str, NDArray[Any]]:
    """Return the TensorRT graph's activation scales, ``amax / 127``, by initializer name."""
    return {
        scale_name(tensor): _activation_scale(_range(ranges, tensor).amax, QMAX, dtype)
        for tensor in placement.engine_points
    }


def twin_graph(
    model: ModelProto, placement: Placement, ranges: Ranges, *, reduce_range: bool = False
) -> ModelProto:
    """Return the CPU twin: uint8 activations, int8 weights, int32 biases, Q/DQ everywhere.

    A tensor that is never negative gets zero-point 0 and scale ``amax / 255``, which lets ONNX
    Runtime absorb the ReLU in front of it; a signed one gets zero-point 128 and ``amax / 127``.
    With ``reduce_range`` weights stay within 64 steps, so that the sum of two products fits the
    16 bits that an x86 without VNNI adds them in.
    """
    writer = Writer(model)
    pairs: dict[str, Pair] = {t: _twin_pair(ranges, t) for t in placement.twin_points}
    for node in model.graph.node:  # commuting operators hand their input's range on
        source, output = node.input[0], node.output[0]
        if commutes(node) and source in pairs and output not in writer.index.outputs:
            pairs[output] = pairs[source]
    for tensor, pair in pairs.items():
        dequantized = writer.pair(tensor, pair)
        for node in writer.index.consumers[tensor]:
            writer.rewire(node, tensor, dequantized)
    for node in writer.weighted(placement):
        source = node.input[0].removesuffix(DEQUANTIZED)
        writer.quantize_layer(node, pairs[source].scale, _REDUCED if reduce_range else QMAX)
    return writer.finish()


_QUANTIZABLE = ("Conv", "Gemm", "GlobalAveragePool", "Add")


def _range(ranges: Ranges, tensor: str) -> TensorRange:
    found = ranges.get(tensor) or ranges.get(tensor.removesuffix(HALF))
    if found is None:
        raise GraphError(
            f"the ranges table has no range for {tensor}",
            hint="the ranges belong to another model, or were taken over from a tool that has none "
            "for this tensor: calibrate on images, or leave the layers that read it in float",
        )
    return found


def _twin_pair(ranges: Ranges, tensor: str) -> Pair:
    found = _range(ranges, tensor)
    if found.min >= 0:
        return Pair(_activation_scale(found.amax, _UMAX, np.float32), np.array(0, np.uint8))
    return Pair(_activation_scale(found.amax, QMAX, np.float32), np.array(_ZERO, np.uint8))


def _activation_scale(amax: float, steps: int, dtype: Any) -> NDArray[Any]:
    """Return ``amax / steps`` in the graph's type, at least its smallest normal number."""
    return np.array(max(amax / steps, float(np.finfo(dtype).smallest_normal)), dtype)
