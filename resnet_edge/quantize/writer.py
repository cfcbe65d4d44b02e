"""Add QuantizeLinear and DequantizeLinear nodes to a copy of a float graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex, attribute, insert_sorted, prune
from resnet_edge.graph.operators import DQ, Q
from resnet_edge.graph.relabel import opset_of, set_opset
from resnet_edge.quantize.placement import Placement
from resnet_edge.quantize.weights import quantize_weight, scales_for_bias, weight_scales

__all__ = ["DEQUANTIZED", "Pair", "Writer", "scale_name"]

DEQUANTIZED = "_dequantized"  # suffix of what a DQ gives
_FP16_SCALES_SINCE = 19


@dataclass(frozen=True)
class Pair:
    """Parameters shared by a QuantizeLinear and its DequantizeLinear."""

    scale: NDArray[Any]
    zero_point: NDArray[Any]
    axis: int | None = None


def scale_name(tensor: str) -> str:
    """Return the name of the initializer that holds a tensor's scale."""
    return f"{tensor}_scale"


def _axis(pair: Pair) -> dict[str, Any]:
    return {} if pair.axis is None else {"axis": pair.axis}


class Writer:
    """A copy of a float graph, being given Q/DQ nodes."""

    def __init__(self, model: ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.index = GraphIndex(self.graph)
        self.nodes: list[NodeProto] = list(self.graph.node)
        self.dtype = self._weight_type()

    def weighted(self, placement: Placement) -> list[NodeProto]:
        """Return the layers whose weights are quantized, checking where their channels are."""
        layers = [n for n in self.nodes if n.output and n.output[0] in placement.weighted]
        for node in layers:
            if node.op_type == "Gemm" and not attribute(node, "transB", 0):
                raise GraphError(f"{node.name}: Gemm weights must be output-channel first (transB)")
        return layers

    def constant(self, name: str) -> NDArray[Any]:
        """Return a constant's value."""
        value = self.index.constant(name)
        assert value is not None  # placement only lists constant weights
        return value

    def add(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer and return its name."""
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def pair(self, tensor: str, pair: Pair) -> str:
        """Add Q and DQ behind a tensor; return the dequantized tensor's name."""
        names, quantized = self._parameters(tensor, pair), f"{tensor}_quantized"
        self.nodes.append(
            helper.make_node(Q, [tensor, *names], [quantized], name=f"{tensor}/Q", **_axis(pair))
        )
        return self._dequantize(tensor, quantized, names, pair)

    def dequantize(self, tensor: str, values: NDArray[Any], pair: Pair) -> str:
        """Add stored integers with a DQ; return the dequantized tensor's name."""
        stored = self.add(f"{tensor}_quantized", values)
        return self._dequantize(tensor, stored, self._parameters(tensor, pair), pair)

    def quantize_layer(self, node: NodeProto, input_scale: NDArray[Any], qmax: int) -> None:
        """Store a layer's weights as int8 and its bias as int32 of scale input x weight."""
        name, weight = node.input[1], self.constant(node.input[1])
        scales = weight_scales(weight, qmax)
        bias = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if bias is not None:
            scales = scales_for_bias(weight, scales, bias, float(input_scale))
        pair = Pair(scales, np.zeros(len(scales), np.int8), axis=0)
        self.rewire(node, name, self.dequantize(name, quantize_weight(weight, scales), pair))
        if bias is None:
            return
        bias_scales = np.asarray(input_scale * scales, np.float32)
        steps = np.rint(bias.astype(np.float64) / bias_scales).astype(np.int32)
        pair = Pair(bias_scales, np.zeros(len(bias), np.int32), axis=0)
        self.rewire(node, node.input[2], self.dequantize(node.input[2], steps, pair))

    def rewire(self, node: NodeProto, old: str, new: str) -> None:
        """Let a node read another tensor."""
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new

    def finish(self) -> ModelProto:
        """Return the sorted, pruned graph."""
        insert_sorted(self.graph, self.nodes)
        prune(self.graph)
        if self.dtype == np.float16 and opset_of(self.model) < _FP16_SCALES_SINCE:
            set_opset(self.model, _FP16_SCALES_SINCE, ir_version=9)
        return self.model

    def _dequantize(self, tensor: str, quantized: str, names: list[str], pair: Pair) -> str:
        dequantized = f"{tensor}{DEQUANTIZED}"
        self.nodes.append(
            helper.make_node(
                DQ,
                [quantized, *names],
                [dequantized],
                name=f"{tensor}/DQ",
                **_axis(pair),
            )
        )
        return dequantized

    def _parameters(self, tensor: str, pair: Pair) -> list[str]:
        return [
            self.add(scale_name(tensor), pair.scale),
            self.add(f"{tensor}_zero_point", pair.zero_point),
        ]

    def _weight_type(self) -> Any:
        types = {
            self.constant(n.input[1]).dtype
            for n in self.nodes
            if n.op_type == "Conv" and n.input[1] in self.index.initializers
        }
        if types == {np.dtype(np.float16)}:
            return np.float16
        return np.float32
