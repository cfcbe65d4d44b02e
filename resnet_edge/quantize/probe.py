"""Measurements inside a float graph, computed by the graph itself so that only sums come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.ranges_table import Ranges
from resnet_edge.graph.nodes import GraphIndex, insert_sorted
from resnet_edge.graph.operators import DQ, Q
from resnet_edge.images.batches import portions
from resnet_edge.quantize.placement import Placement, origin_of
from resnet_edge.quantize.weights import quantize_weight, weight_scales
from resnet_edge.tensors import QMAX

__all__ = ["PROBE_BATCH", "LayerError", "channel_maxima", "layer_errors"]

PROBE_BATCH = 2  # images at once: a probed graph holds every activation several times over


@dataclass(frozen=True)
class LayerError:
    """What quantizing one layer alone, on float inputs, does to its output.

    Attributes:
        bias: Mean error of each output channel (quantized minus float).
        signal: Mean square of the float output.
        noise: Mean square of the error.
    """

    bias: NDArray[Any]
    signal: float
    noise: float

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio in decibels."""
        import math

        return 10 * math.log10(self.signal / self.noise) if self.noise > 0 else math.inf


def channel_maxima(
    model: ModelProto, tensors: Sequence[str], inputs: Iterable[NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return, per tensor and channel, the mean over images of the largest magnitude."""
    nodes, outputs = [], {}
    for position, tensor in enumerate(tensors):
        magnitude, maximum = f"probe/{position}/abs", f"probe/{position}/max"
        nodes.append(helper.make_node("Abs", [tensor], [magnitude]))
        nodes.append(helper.make_node("Flatten", [magnitude], [f"{maximum}/flat"], axis=2))
        nodes.append(
            helper.make_node("ReduceMax", [f"{maximum}/flat"], [maximum], axes=[1], keepdims=0)
        )
        outputs[tensor] = maximum
    sums: dict[str, Any] = dict.fromkeys(tensors, 0.0)
    count = 0
    for size, values in _run(model, nodes, list(outputs.values()), inputs):
        count += size
        for tensor, name in outputs.items():
            sums[tensor] = sums[tensor] + values[name].reshape(size, -1).sum(axis=0)
    return {tensor: np.asarray(total / count) for tensor, total in sums.items()}


def layer_errors(
    model: ModelProto,
    placement: Placement,
    ranges: Ranges,
    inputs: Iterable[NDArray[Any]],
) -> dict[str, LayerError]:
    """Measure every weighted layer's own quantization error in one pass of the float graph.

    Beside each layer stands its quantized copy, fed with the layer's float input, so errors of
    layers further up do not mix in.

    Returns:
        By layer name, in graph order.
    """
    layers = [n for n in model.graph.node if n.output[0] in placement.weighted]
    nodes, outputs, extra = [], [], []
    for layer in layers:
        made, weights = _quantized_copy(model, layer, ranges)
        nodes += made
        extra += weights
        outputs += [f"{layer.name}/probe/{part}" for part in ("bias", "signal", "noise")]
    sums: dict[str, Any] = dict.fromkeys(outputs, 0.0)
    count = 0
    for size, values in _run(model, nodes, outputs, inputs, extra):
        count += size
        for name in outputs:
            sums[name] = sums[name] + size * values[name]
    return {
        layer.name: LayerError(
            bias=sums[f"{layer.name}/probe/bias"] / count,
            signal=float(sums[f"{layer.name}/probe/signal"] / count),
            noise=float(sums[f"{layer.name}/probe/noise"] / count),
        )
        for layer in layers
    }


def _quantized_copy(
    model: ModelProto, layer: NodeProto, ranges: Ranges
) -> tuple[list[NodeProto], list[Any]]:
    index, prefix = GraphIndex(model.graph), f"{layer.name}/probe"
    weight = index.constant(layer.input[1])
    assert weight is not None  # placement only lists constant weights
    weight_scale = weight_scales(weight)
    scale = np.float32(ranges[origin_of(layer.input[0], index)].amax / QMAX)
    arrays = {  # the weights stay int8 until they are used: a quarter of the memory
        "weight": quantize_weight(weight, weight_scale),
        "weight_scale": weight_scale,
        "scale": np.array(scale, np.float32),
        "zero": np.zeros((), np.int8),
    }
    copy = helper.make_node(
        layer.op_type,
        [f"{prefix}/x", f"{prefix}/w", *layer.input[2:]],
        [f"{prefix}/y"],
    )
    copy.attribute.extend(layer.attribute)
    axes = [0, 2, 3] if layer.op_type == "Conv" else [0]
    steps = [
        (Q, [layer.input[0], f"{prefix}/scale", f"{prefix}/zero"], "q", {}),
        (DQ, [f"{prefix}/q", f"{prefix}/scale", f"{prefix}/zero"], "x", {}),
        (DQ, [f"{prefix}/weight", f"{prefix}/weight_scale"], "w", {"axis": 0}),
        ("Sub", [f"{prefix}/y", layer.output[0]], "error", {}),
        ("ReduceMean", [f"{prefix}/error"], "bias", {"axes": axes, "keepdims": 0}),
        ("Mul", [f"{prefix}/error", f"{prefix}/error"], "error2", {}),
        ("ReduceMean", [f"{prefix}/error2"], "noise", {"keepdims": 0}),
        ("Mul", [layer.output[0], layer.output[0]], "signal2", {}),
        ("ReduceMean", [f"{prefix}/signal2"], "signal", {"keepdims": 0}),
    ]
    nodes = [
        helper.make_node(op, inputs, [f"{prefix}/{output}"], **attributes)  # type: ignore[arg-type]
        for op, inputs, output, attributes in steps
    ]
    weights = [numpy_helper.from_array(v, f"{prefix}/{k}") for k, v in arrays.items()]
    return [*nodes, copy], weights


def _run(
    model: ModelProto,
    nodes: list[NodeProto],
    outputs: list[str],
    inputs: Iterable[NDArray[Any]],
    initializers: Sequence[Any] = (),
) -> Iterable[tuple[int, Mapping[str, NDArray[Any]]]]:
    """Run a copy of the model with more nodes; yield batch size and outputs per batch."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.initializer.extend(initializers)
    insert_sorted(probed.graph, [*probed.graph.node, *nodes])
    for name in outputs:
        probed.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    with OnnxRuntimeSession(probed, optimise="float") as session:
        for array in inputs:
            for part, _ in portions(array, *session.batch_range):
                yield len(part), session.run({session.inputs[0].name: part})
