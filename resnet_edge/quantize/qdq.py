"""Write Q/DQ pairs into a float graph: the TensorRT graph and the CPU twin.

The two are never confused: the TensorRT graph leaves the main branch of every residual Add
unquantized, as TensorRT fuses it; the CPU twin quantizes every tensor, as ONNX Runtime needs it
to run integer kernels from end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from resnet_edge.errors import GraphError
from resnet_edge.graph import GraphIndex, attribute, insert_sorted, opset_of, prune, set_opset
from resnet_edge.quantize.placement import commutes
from resnet_edge.quantize.precision import HALF

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from resnet_edge.calibrate.table import RangesTable, TensorRange
    from resnet_edge.quantize.placement import Placement

__all__ = [
    "Weights",
    "engine_graph",
    "quantize_weight",
    "round_weight",
    "twin_graph",
    "weight_scales",
]

Weights = Literal["float", "int8", "rounded"]

_QMAX = 127
_REDUCED = 64  # of 127: 2 x 255 x 64 fits int16
_UMAX = 255
_ZERO = 128  # zero-point of a signed tensor stored as uint8
_FP16_SCALES_SINCE = 19


def weight_scales(weight: NDArray[Any], qmax: int = _QMAX) -> NDArray[Any]:
    """Return one scale per output channel (axis 0): ``max|w| / qmax``.

    Computed in the weight's own type and rounded up there, so that nothing is clipped when the
    scale is a float16. A channel of zeros gets scale 1.
    """
    import numpy as np

    amax = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
    exact = np.where(amax > 0, amax / qmax, 1.0)
    scale = exact.astype(weight.dtype)
    if weight.dtype == np.float16:
        scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    tiny = np.finfo(weight.dtype).smallest_subnormal
    return np.asarray(np.maximum(scale, tiny), weight.dtype)


def quantize_weight(weight: NDArray[Any], scales: NDArray[Any]) -> NDArray[np.int8]:
    """Return ``clip(round_half_even(w / scale), -127, 127)`` as int8, channel axis 0."""
    import numpy as np

    shaped = scales.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
    return np.clip(np.rint(weight / shaped), -_QMAX, _QMAX).astype(np.int8)


def round_weight(weight: NDArray[Any], scales: NDArray[Any]) -> NDArray[Any]:
    """Return the weight as its integers dequantize, in its own type."""
    import numpy as np

    shaped = scales.reshape(-1, *([1] * (weight.ndim - 1)))
    return np.asarray(quantize_weight(weight, scales) * shaped, weight.dtype)


def engine_graph(
    model: ModelProto, placement: Placement, table: RangesTable, *, weights: Weights
) -> ModelProto:
    """Return the TensorRT graph: symmetric int8 Q/DQ with zero-points of 0, biases float.

    Args:
        model: Float graph, FP32 or FP16; the scales take its type (opset 19 for FP16 scales).
        placement: Where the pairs go.
        table: Ranges of the placement's engine points.
        weights: ``float`` keeps float weights with Q and DQ (every TensorRT); ``int8`` stores
            integers with a DQ only (RTX and strongly typed TensorRT); ``rounded`` stores what
            either dequantizes to, without nodes: not for TensorRT, but to be run here, where the
            conversions would be repeated in every call.
    """
    import numpy as np

    writer = _Writer(model)
    for tensor in placement.engine_points:
        scale = _activation_scale(_range(table, tensor).amax, _QMAX, writer.dtype)
        pair = _Pair(scale, np.zeros((), np.int8))
        dequantized = writer.pair(tensor, pair)
        for node in writer.index.consumers[tensor]:
            output = node.output[0]
            skip = placement.main_inputs.get(output) == tensor or output in placement.float_nodes
            if not skip and (node.op_type in _QUANTIZABLE or commutes(node)):
                writer.rewire(node, tensor, dequantized)
    for node in writer.weighted(placement):
        name, weight = node.input[1], writer.constant(node.input[1])
        scales = weight_scales(weight)
        pair = _Pair(scales, np.zeros(len(scales), np.int8), axis=0)
        if weights == "float":
            writer.rewire(node, name, writer.pair(name, pair))
        elif weights == "int8":
            writer.rewire(
                node, name, writer.dequantize(name, quantize_weight(weight, scales), pair)
            )
        else:
            writer.rewire(node, name, writer.add(f"{name}_rounded", round_weight(weight, scales)))
    return writer.finish()


def twin_graph(
    model: ModelProto, placement: Placement, table: RangesTable, *, reduce_range: bool = False
) -> ModelProto:
    """Return the CPU twin: uint8 activations, int8 weights, int32 biases, Q/DQ everywhere.

    A tensor that is never negative gets zero-point 0 and scale ``amax / 255``, which lets ONNX
    Runtime absorb the ReLU in front of it; a signed one gets zero-point 128 and ``amax / 127``.
    With ``reduce_range`` weights stay within 64 steps, so that the sum of two products fits the
    16 bits that an x86 without VNNI adds them in.
    """
    writer = _Writer(model)
    pairs: dict[str, _Pair] = {t: _twin_pair(table, t) for t in placement.twin_points}
    for node in model.graph.node:  # commuting operators hand their input's range on
        source, output = node.input[0], node.output[0]
        if commutes(node) and source in pairs and output not in writer.index.outputs:
            pairs[output] = pairs[source]
    for tensor, pair in pairs.items():
        dequantized = writer.pair(tensor, pair)
        for node in writer.index.consumers[tensor]:
            writer.rewire(node, tensor, dequantized)
    for node in writer.weighted(placement):
        source = node.input[0].removesuffix(_DQ)
        writer.quantize_layer(node, pairs[source].scale, _REDUCED if reduce_range else _QMAX)
    return writer.finish()


@dataclass(frozen=True)
class _Pair:
    """Parameters shared by a QuantizeLinear and its DequantizeLinear."""

    scale: NDArray[Any]
    zero_point: NDArray[Any]
    axis: int | None = None


_QUANTIZABLE = ("Conv", "Gemm", "GlobalAveragePool", "Add")
_DQ = "_dequantized"


def _range(table: RangesTable, tensor: str) -> TensorRange:
    found = table.tensors.get(tensor) or table.tensors.get(tensor.removesuffix(HALF))
    if found is None:
        raise GraphError(
            f"the ranges table has no range for {tensor}",
            hint="the ranges belong to another model, or were taken over from a tool that has none "
            "for this tensor: calibrate on images, or leave the layers that read it in float",
        )
    return found


def _twin_pair(table: RangesTable, tensor: str) -> _Pair:
    import numpy as np

    found = _range(table, tensor)
    if found.minimum >= 0:
        return _Pair(_activation_scale(found.amax, _UMAX, np.float32), np.array(0, np.uint8))
    return _Pair(_activation_scale(found.amax, _QMAX, np.float32), np.array(_ZERO, np.uint8))


def _scales_for_bias(
    weight: NDArray[Any], scales: NDArray[Any], bias: NDArray[Any], input_scale: float
) -> NDArray[np.float32]:
    """Return weight scales with which every bias fits int32 and keeps its precision.

    The bias is stored in steps of input scale x weight scale. A channel of zeros may take any
    scale, so it takes the one that stores its bias in 2^15 steps.
    """
    import numpy as np

    magnitude = np.abs(bias.astype(np.float64)) / input_scale
    dead = ~weight.reshape(len(weight), -1).any(axis=1)
    scales = np.where(dead & (bias != 0), magnitude / 2**15, scales)
    return np.asarray(np.maximum(scales, magnitude / 2**30), np.float32)


def _activation_scale(amax: float, steps: int, dtype: Any) -> NDArray[Any]:
    """Return ``amax / steps`` in the graph's type, at least its smallest normal number."""
    import numpy as np

    return np.array(max(amax / steps, float(np.finfo(dtype).smallest_normal)), dtype)


def _axis(pair: _Pair) -> dict[str, Any]:
    return {} if pair.axis is None else {"axis": pair.axis}


class _Writer:
    """A copy of a float graph, being given Q/DQ nodes."""

    def __init__(self, model: ModelProto) -> None:
        import onnx

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
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def pair(self, tensor: str, pair: _Pair) -> str:
        """Add Q and DQ behind a tensor; return the dequantized tensor's name."""
        from onnx import helper

        names, quantized = self._parameters(tensor, pair), f"{tensor}_quantized"
        self.nodes.append(
            helper.make_node(
                "QuantizeLinear", [tensor, *names], [quantized], name=f"{tensor}/Q", **_axis(pair)
            )
        )
        return self._dequantize(tensor, quantized, names, pair)

    def dequantize(self, tensor: str, values: NDArray[Any], pair: _Pair) -> str:
        """Add stored integers with a DQ; return the dequantized tensor's name."""
        stored = self.add(f"{tensor}_quantized", values)
        return self._dequantize(tensor, stored, self._parameters(tensor, pair), pair)

    def quantize_layer(self, node: NodeProto, input_scale: NDArray[Any], qmax: int) -> None:
        """Store a layer's weights as int8 and its bias as int32 of scale input x weight."""
        import numpy as np

        name, weight = node.input[1], self.constant(node.input[1])
        scales = weight_scales(weight, qmax)
        bias = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if bias is not None:
            scales = _scales_for_bias(weight, scales, bias, float(input_scale))
        pair = _Pair(scales, np.zeros(len(scales), np.int8), axis=0)
        self.rewire(node, name, self.dequantize(name, quantize_weight(weight, scales), pair))
        if bias is None:
            return
        bias_scales = np.asarray(input_scale * scales, np.float32)
        steps = np.rint(bias.astype(np.float64) / bias_scales).astype(np.int32)
        pair = _Pair(bias_scales, np.zeros(len(bias), np.int32), axis=0)
        self.rewire(node, node.input[2], self.dequantize(node.input[2], steps, pair))

    def rewire(self, node: NodeProto, old: str, new: str) -> None:
        """Let a node read another tensor."""
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new

    def finish(self) -> ModelProto:
        """Return the sorted, pruned graph."""
        import numpy as np

        insert_sorted(self.graph, self.nodes)
        prune(self.graph)
        if self.dtype == np.float16 and opset_of(self.model) < _FP16_SCALES_SINCE:
            set_opset(self.model, _FP16_SCALES_SINCE, ir_version=9)
        return self.model

    def _dequantize(self, tensor: str, quantized: str, names: list[str], pair: _Pair) -> str:
        from onnx import helper

        dequantized = f"{tensor}{_DQ}"
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [quantized, *names],
                [dequantized],
                name=f"{tensor}/DQ",
                **_axis(pair),
            )
        )
        return dequantized

    def _parameters(self, tensor: str, pair: _Pair) -> list[str]:
        return [
            self.add(f"{tensor}_scale", pair.scale),
            self.add(f"{tensor}_zero_point", pair.zero_point),
        ]

    def _weight_type(self) -> Any:
        import numpy as np

        types = {
            self.constant(n.input[1]).dtype
            for n in self.nodes
            if n.op_type == "Conv" and n.input[1] in self.index.initializers
        }
        if types == {np.dtype(np.float16)}:
            return np.float16
        return np.float32
