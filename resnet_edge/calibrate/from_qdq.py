"""Ranges out of a Q/DQ model that another tool calibrated: ModelOpt, ONNX Runtime, QAT."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from resnet_edge.errors import CalibrationError
from resnet_edge.graph.operators import DQ, Q
from resnet_edge.lint.view import QdqView

__all__ = ["ranges_from_qdq"]

# ONNX Runtime's quantizer renames a quantized network output to this.
_RENAMED_OUTPUT = "_QuantizeLinear_Input"
_FORMAT = "ranges are read from Q/DQ format"
_HINT = "in ONNX Runtime: quant_format=QuantFormat.QDQ"


def ranges_from_qdq(model: ModelProto) -> dict[str, float]:
    """Return ``amax`` of every quantized activation by the name of the float tensor.

    It is the largest magnitude the quantizer can represent: 127 steps where that is symmetric
    (int8 around 0, uint8 around 128), else the farther end. Where a tensor is quantized more than
    once, or per channel, the largest counts. A Q that names no type is int8, as in TensorRT.
    Weights and biases are left out.

    Raises:
        CalibrationError: No activation is quantized in Q/DQ format, or a scale is not stored, not
            positive, or not of integers.
    """
    view = QdqView(model)
    if operator := next((n.op_type for n in model.graph.node if "QLinear" in n.op_type), None):
        raise CalibrationError(f"the model has {operator} operators: {_FORMAT}", hint=_HINT)
    ranges: dict[str, float] = {}
    for node in view.nodes(Q):
        if node.input[0] not in view.constants:
            name = _float_name(view, node.input[0])
            ranges[name] = max(_amax(view, node), ranges.get(name, 0.0))
    if not ranges:
        raise CalibrationError(f"the model has no quantized activations: {_FORMAT}", hint=_HINT)
    return ranges


def _float_name(view: QdqView, name: str) -> str:
    """Return what a tensor was called before the quantizer came: through casts and Q/DQ pairs."""
    node = view.index.producer.get(name)
    while node is not None and node.op_type in ("Cast", Q, DQ):
        name = node.input[0]
        node = view.index.producer.get(name)
    original = name.removesuffix(_RENAMED_OUTPUT)
    return original if original in view.index.outputs else name


def _amax(view: QdqView, node: NodeProto) -> float:
    scale, zero_point = view.scale(node), view.value(view.zero_point(node))
    if scale is None or not (np.isfinite(scale) & (scale > 0)).all():
        raise CalibrationError(f"{view.label(node)}: its scale is not stored, or not positive")
    try:
        integers = np.iinfo(helper.tensor_dtype_to_np_dtype(view.integer_type(node)))
    except ValueError as error:
        raise CalibrationError(f"{view.label(node)} does not quantize to integers") from error
    zero = np.zeros(1, np.int64) if zero_point is None else zero_point.astype(np.int64)
    below, above = zero - int(integers.min), int(integers.max) - zero
    steps = np.where(below == above + 1, above, np.maximum(below, above))
    return float((steps * scale.astype(np.float64)).max())
