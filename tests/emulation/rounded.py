"""What a network gives when its numbers are rounded: in numpy, apart from the fake TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["rounded_outputs", "to_half", "to_int8", "weight_to_int8"]

_QUANTIZED = {"Conv", "Gemm", "Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"}
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear"}


def to_half(array: NDArray[Any]) -> NDArray[Any]:
    """Return what is left of float32 in FP16; other types as they are."""
    import numpy as np

    return array.astype(np.float16).astype(np.float32) if array.dtype == np.float32 else array


def to_int8(array: NDArray[Any], amax: float) -> NDArray[Any]:
    """Return what is left in INT8 of a range of ``amax``."""
    import numpy as np

    scale = np.float32(amax / 127)
    return np.asarray(np.clip(np.rint(array / scale), -128, 127) * scale, np.float32)


def weight_to_int8(weight: NDArray[Any]) -> NDArray[Any]:
    """Return what is left of a weight in INT8, each output channel in its own range."""
    import numpy as np

    return np.stack([to_int8(channel, float(abs(channel).max()) or 127) for channel in weight])


def rounded_outputs(
    model: ModelProto,
    feed: Mapping[str, NDArray[Any]],
    *,
    half: bool = False,
    ranges: Mapping[str, float] | None = None,
    keep_float: Collection[str] = (),
) -> dict[str, NDArray[Any]]:
    """Run a network operator by operator with ONNX's reference implementation.

    Args:
        model: Float, or with Q/DQ pairs.
        feed: Its inputs.
        half: Round what is not INT8 to FP16.
        ranges: ``amax`` of tensors; a layer all of whose tensors have one runs in INT8.
        keep_float: Layers that do not.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    constants = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    values = {**constants, **feed}
    exact: set[str] = set()
    for node in model.graph.node:
        tensors = {t for t in (*node.input, *node.output) if t not in constants}
        known = ranges is not None and tensors <= ranges.keys() and node.op_type in _QUANTIZED
        in_int8 = known and node.name not in keep_float
        inputs = {}
        for position, name in enumerate(node.input):
            inputs[name] = value = values[name]
            if in_int8 and name in constants:
                inputs[name] = weight_to_int8(value) if position == 1 else value
            elif in_int8 and ranges is not None:
                inputs[name] = to_int8(value, ranges[name])
            elif half and name not in exact and node.op_type not in _CONVERSIONS:
                inputs[name] = to_half(value)
        found = ReferenceEvaluator(node).run(None, inputs)
        for name, value in zip(node.output, found, strict=True):
            if in_int8 and ranges is not None:
                values[name] = to_int8(value, ranges[name])
            elif half and node.op_type not in _CONVERSIONS:
                values[name] = to_half(value)
            else:
                values[name] = value
        if node.op_type == "DequantizeLinear":
            exact.update(node.output)
    return {output.name: values[output.name] for output in model.graph.output}
