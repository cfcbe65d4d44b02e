"""Precisions: which one every layer is built in, and the graph that rounds as they do.

A layer in FP16 takes inputs and weights rounded to float16 and rounds what it gives; one in INT8
does the same with the scales of the calibration, its weights per output channel. Sums are FP32 in
both. Real kernels fuse layers and round less often, and a real builder may leave any of them in a
wider type.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["choose_precisions", "rounding", "scales_in"]

_IN_INT8 = ("Conv", "Gemm", "Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


def scales_in(cache: str) -> dict[str, float]:
    """Return the scale of every tensor in a calibration cache."""
    entries = (line.rpartition(": ") for line in cache.splitlines()[1:])
    return {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, _, digits in entries}


def choose_precisions(
    model: Any, *, half: bool, scales: Mapping[str, float], wanted: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return each layer's precision by its first output, and the tensors that lack a scale.

    Args:
        model: The network.
        half: Whether layers may run in FP16.
        scales: Of the tensors that may be INT8; empty where nothing is quantized implicitly.
        wanted: Precision asked for, by the name of a layer.
    """
    constants = {weight.name for weight in model.graph.initializer}
    precisions, missing = {}, []
    for node in model.graph.node:
        tensors = [t for t in (*node.input, *node.output) if t and t not in constants]
        without = [t for t in tensors if t not in scales]
        kind = "HALF" if half else "FLOAT"
        if scales and node.op_type in _IN_INT8:
            missing += [t for t in without if t not in missing]
            kind = kind if without else "INT8"
        precisions[node.output[0]] = wanted.get(node.name, kind)
    return precisions, missing


def rounding(model: Any, precisions: Mapping[str, str], scales: Mapping[str, float]) -> Any:
    """Return a copy of a model whose layers round as their precisions do."""
    graph = _Rounding(model)
    for node in model.graph.node:
        kind = precisions.get(node.output[0], "FLOAT")
        if kind == "FLOAT" or node.op_type in _CONVERSIONS:
            graph.nodes.append(node)
        else:
            graph.add(node, scales if kind == "INT8" else None)
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(graph.nodes)
    return graph.model


class _Rounding:
    """A copy of a model whose nodes are written anew, in their order."""

    def __init__(self, model: Any) -> None:
        import onnx

        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.nodes: list[Any] = []
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self._floats = {
            v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        self._constants = {
            weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer
        }
        # What is dequantized already: an INT8 kernel reads the integers.
        self._exact = {
            n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"
        }  # fmt: skip

    def add(self, node: Any, scales: Mapping[str, float] | None) -> None:
        """Add a layer whose inputs, weights and outputs are rounded, to FP16 without scales."""
        import onnx

        layer = onnx.NodeProto()
        layer.CopyFrom(node)
        for position, name in enumerate(node.input):
            rounded = f"{name}/of/{node.output[0]}"
            if name in self._constants:
                if self._add_constant(node, position, rounded, in_int8=scales is not None):
                    layer.input[position] = rounded
            elif name in self._floats - self._exact:
                self._add_pair(name, rounded, scales)
                layer.input[position] = rounded
        self.nodes.append(layer)
        for position, name in enumerate(node.output):
            if name in self._floats:
                layer.output[position] = f"{name}/exact"
                self._add_pair(layer.output[position], name, scales, of=name)

    def _add_pair(
        self, source: str, target: str, scales: Mapping[str, float] | None, *, of: str | None = None
    ) -> None:
        """Add a tensor that is another, rounded."""
        import numpy as np
        from onnx import TensorProto, helper

        if scales is None:
            middle = f"{target}/half"
            self.nodes += [
                helper.make_node("Cast", [source], [middle], to=TensorProto.FLOAT16),
                helper.make_node("Cast", [middle], [target], to=TensorProto.FLOAT),
            ]
        else:
            self._add_integers(source, target, np.array(scales[of or source], np.float32))

    def _add_integers(self, source: str, target: str, scale: Any, **axis: int) -> None:
        import numpy as np
        from onnx import helper

        middle = f"{target}/int8"
        parameters = [
            self._add_initializer(f"{target}/scale", scale),
            self._add_initializer(f"{target}/zero", np.zeros(scale.shape, np.int8)),
        ]
        self.nodes += [
            helper.make_node("QuantizeLinear", [source, *parameters], [middle], **axis),
            helper.make_node("DequantizeLinear", [middle, *parameters], [target], **axis),
        ]

    def _add_constant(self, node: Any, position: int, target: str, *, in_int8: bool) -> bool:
        """Add a rounded weight; return whether this one is rounded: a bias in INT8 is not."""
        import numpy as np

        value = self._constants[node.input[position]]
        if value.dtype != np.float32 or (in_int8 and position != 1):
            return False
        if in_int8:
            largest = np.abs(value).reshape(len(value), -1).max(axis=1)
            scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            self._add_integers(node.input[position], target, scale, axis=0)
        else:
            self._add_initializer(target, value.astype(np.float16).astype(np.float32))
        return True

    def _add_initializer(self, name: str, value: Any) -> str:
        import onnx

        self.model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name
