"""What TensorRT does not take in a Q or DQ itself: zero-points, scales, types.

The facts are from the sources of NVIDIA's parsers (8.5, 8.6, 10.x), from its documentation, and
from experiments with the TensorRT-RTX builder, which ``tests/lint/test_check.py`` repeats.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from resnet_edge.graph.operators import DQ, Q
from resnet_edge.lint.rule import FLAVOURS, TRT8, Rule, Verdict, registrar
from resnet_edge.lint.typed_view import UINT8_MIDDLES
from resnet_edge.lint.view import QdqView

__all__ = ["PAIR_RULES"]

_FP16_SCALES_SINCE = 19
_QUANTIZE_AGAIN = "quantize again with ActivationSymmetric and WeightSymmetric (ONNX Runtime)"

PAIR_RULES: list[Rule] = []
_rule = registrar(PAIR_RULES)


@_rule("zero-point-missing", "error", TRT8, Q, DQ)
def _zero_point_missing(view: QdqView, node: NodeProto) -> Verdict:
    if view.zero_point(node) is not None or view.type_of(node.input[0]) == view.INT32:
        return None
    guessed = node.op_type == Q and view.is_guess(node)
    note = (
        ", as TensorRT assumes; ONNX Runtime assumes uint8, its results change" if guessed else ""
    )
    fixable = view.scale(node) is not None
    return "no zero-point, which TensorRT 8 requires", f"an int8 zero-point of 0{note}", fixable


@_rule("zero-point-nonzero", "error", FLAVOURS, "pair")
def _zero_point_nonzero(view: QdqView, node: NodeProto) -> Verdict:
    zero_point = view.value(view.zero_point(node))
    if zero_point is None or not zero_point.any():
        return None
    worst = zero_point.flat[abs(zero_point.astype(int)).argmax()]
    text = f"{zero_point.dtype} zero-point {worst}: TensorRT only quantizes symmetrically"
    if view.is_shiftable(node):
        fix = "the same numbers as int8 with zero-point 0"
        if node.op_type == Q and worst == min(UINT8_MIDDLES):
            fix += ", but for the largest step, which is cut off"
        return text, fix, True
    return text, _QUANTIZE_AGAIN, False


@_rule("zero-point-uint8", "error", FLAVOURS, "pair")
def _zero_point_uint8(view: QdqView, node: NodeProto) -> Verdict:
    zero_point = view.value(view.zero_point(node))
    if zero_point is not None and (str(zero_point.dtype) != "uint8" or zero_point.any()):
        return None
    if node.op_type == DQ and view.type_of(node.input[0]) == view.UINT8:
        fixable = view.is_shiftable(node)
        fix = "the same numbers as int8" if fixable else _QUANTIZE_AGAIN
        return "uint8 data, which TensorRT refuses", fix, fixable
    if zero_point is None:
        return None
    text = "uint8: TensorRT 8 refuses it, later ones take int8 and cut off above 127 x scale"
    return text, _QUANTIZE_AGAIN, False


@_rule("integer-type", "error", FLAVOURS, "pair")
def _integer_type(view: QdqView, node: NodeProto) -> Verdict:
    zero_point = view.value(view.zero_point(node))
    found = "" if zero_point is None else str(zero_point.dtype)
    if found not in ("int16", "uint16", "uint4"):
        return None
    return f"{found}: TensorRT has no such quantization", "quantize to int8", False


@_rule("zero-point-size", "error", FLAVOURS, "pair")
def _zero_point_size(view: QdqView, node: NodeProto) -> Verdict:
    zero_point, scale = view.value(view.zero_point(node)), view.scale(node)
    if zero_point is None or scale is None or zero_point.size == scale.size:
        return None
    text = f"{zero_point.size} zero-points for {scale.size} scales"
    return text, "one zero-point per scale", not zero_point.any()


@_rule("scale-value", "error", FLAVOURS, "pair")
def _scale_value(view: QdqView, node: NodeProto) -> Verdict:
    scale = view.scale(node)
    if scale is None or not (bad := scale[~(np.isfinite(scale) & (scale > 0))]).size:
        return None
    unseen = " (TensorRT does not notice infinity)" if np.isposinf(bad[0]) else ""
    text = f"scale {bad[0]}: scales must be positive and finite{unseen}"
    return text, "calibrate again; a channel of zeros takes scale 1", False


@_rule("scale-count", "error", FLAVOURS, "pair")
def _scale_count(view: QdqView, node: NodeProto) -> Verdict:
    scale, shape = view.scale(node), view.constant_shape(node.input[0])
    if scale is None or scale.ndim == 0 or (scale.ndim == 1 and scale.size and not shape):
        return None
    if scale.shape == (1,):
        return None
    axis = view.axis(node)
    channels = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
    if scale.ndim == 1 and scale.size == channels:
        return None
    text = f"scales of shape {list(scale.shape)} for {channels} channels along axis {axis}"
    return text, "one scale, or a vector with one per channel", False


@_rule("scale-computed", "error", FLAVOURS, "pair")
def _scale_computed(view: QdqView, node: NodeProto) -> Verdict:
    if node.input[1] in view.constants:
        return None
    text = "the scale depends on the network's input (TensorRT-RTX 1.7 crashes on this)"
    return text, "static quantization: calibrate, and store the scale", False


@_rule("scale-fp16-opset", "error", FLAVOURS, "pair")
def _scale_fp16_opset(view: QdqView, node: NodeProto) -> Verdict:
    if view.type_of(node.input[1]) != view.FLOAT16 or view.opset >= _FP16_SCALES_SINCE:
        return None
    text = f"FP16 scale in opset {view.opset}, which only allows FP32: TensorRT may misread it"
    if view.takes_fp32_scales():
        return text, "the same scales in FP32", True
    return text, "opset 19", view.relabels(_FP16_SCALES_SINCE)


@_rule("scale-fp16", "error", TRT8, "pair")
def _scale_fp16(view: QdqView, node: NodeProto) -> Verdict:
    if view.type_of(node.input[1]) != view.FLOAT16 or view.opset < _FP16_SCALES_SINCE:
        return None
    return "FP16 scale, which TensorRT 8 reads as FP32", "for TensorRT 8: FP32 scales", False


@_rule("scale-type", "error", ("strong",), Q)
def _scale_type(view: QdqView, node: NodeProto) -> Verdict:
    types = {view.type_of(name) for name in node.input[:2]}
    if view.opset < _FP16_SCALES_SINCE or types != {view.FLOAT, view.FLOAT16}:
        return None
    text = "scale and tensor differ in type, which TensorRT 10.3 to 10.12 refuse"
    return text, "scales of the tensor's own type", False
