"""Where a layer would run in float, and what else TensorRT does not take in a Q/DQ graph.

The facts are from the sources of NVIDIA's parsers (8.5, 8.6, 10.x), from its documentation, and
from experiments with the TensorRT-RTX builder, which ``tests/lint/test_check.py`` repeats.
"""

from __future__ import annotations

from onnx import NodeProto, ValueInfoProto, defs

from resnet_edge.graph.operators import DQ, MULTIPLYING, Q
from resnet_edge.lint.rule import FLAVOURS, TRT8, TRT10, TYPED, Rule, Verdict, registrar
from resnet_edge.lint.view import QdqView

__all__ = ["LAYER_RULES"]

_TRT8_OPSET, _TRT10_OPSET = 17, 20
_INSTEAD = {
    "QLinearConv": "Q, DQ and Conv",
    "QLinearMatMul": "Q, DQ and MatMul",
    "ConvInteger": "Q, DQ and Conv",
    "MatMulInteger": "Q, DQ and MatMul",
    "DynamicQuantizeLinear": "a QuantizeLinear with a calibrated scale",
}

LAYER_RULES: list[Rule] = []
_rule = registrar(LAYER_RULES)


@_rule("layer-types", "error", TYPED, *MULTIPLYING, "Add")
def _layer_types(view: QdqView, node: NodeProto) -> Verdict:
    names = {view.FLOAT: "FP32", view.FLOAT16: "FP16"}
    found = [names.get(view.type_of(name), "?") for name in node.input if name]
    if not {"FP32", "FP16"} <= set(found):
        return None
    text = f"{node.op_type} of {', '.join(found)}: a DQ gives the type of its scale"
    return text, "scales and bias of one type", False


@_rule("activation-scale-vector", "slow", TYPED, DQ)
def _activation_scale_vector(view: QdqView, node: NodeProto) -> Verdict:
    scale = view.scale(node)
    if scale is None or scale.shape != (1,) or node.input[0] in view.constants:
        return None
    return "a scale of shape [1]: the layer behind it runs in float", "a scalar", True


@_rule("activation-per-channel", "slow", FLAVOURS, "pair")
def _activation_per_channel(view: QdqView, node: NodeProto) -> Verdict:
    scale = view.scale(node)
    if scale is None or scale.size == 1 or node.input[0] in view.constants:
        return None
    text = f"an activation with {scale.size} scales: the layer behind it runs in float"
    return text, "one scale for the whole tensor", view.is_uniform(node)


@_rule("weight-axis", "slow", FLAVOURS, *MULTIPLYING)
def _weight_axis(view: QdqView, node: NodeProto) -> Verdict:
    dq = view.plain_weight_dq(node)
    if dq is None:
        return None
    scale, shape = view.scale(dq), view.constant_shape(dq.input[0])
    if scale is None or scale.size == 1 or not shape:
        return None
    if node.op_type == "MatMul" and len(shape) != 2:
        return None
    wanted = view.output_axis(node)
    if view.axis(dq) % len(shape) == wanted or scale.shape != (shape[view.axis(dq)],):
        return None
    text = f"weight scales along axis {view.axis(dq)}: it runs in float"
    if view.is_uniform(dq):
        return text, "a single scale, as all are equal", True
    return text, f"scales along axis {wanted}; the weights are rounded once more", True


@_rule("activation-not-quantized", "slow", FLAVOURS, *MULTIPLYING)
def _activation_not_quantized(view: QdqView, node: NodeProto) -> Verdict:
    if view.weight_dq(node) is None or view.dequantizer(node.input[0]) is not None:
        return None
    origin = view.origin(node.input[0])
    source = "the network's input" if origin is None else f"{origin.op_type} {view.label(origin)}"
    text = f"int8 weights, but its input comes from {source} in float: it runs in float"
    return text, "Q/DQ on its input, or float weights", False


@_rule("weight-not-quantized", "slow", FLAVOURS, *MULTIPLYING)
def _weight_not_quantized(view: QdqView, node: NodeProto) -> Verdict:
    constant = len(node.input) > 1 and node.input[1] in view.constants
    if not constant or view.weight_dq(node) or not view.dequantizer(node.input[0]):
        return None
    return "an int8 input, but float weights: it runs in float", "Q/DQ on its weights", False


@_rule("bias-int32", "error", FLAVOURS, DQ)
def _bias_int32(view: QdqView, node: NodeProto) -> Verdict:
    if view.type_of(node.input[0]) != view.INT32:
        return None
    text = "DequantizeLinear of int32, a quantized bias: the parser refuses it"
    fixable = view.value(node.input[0]) is not None and view.scale(node) is not None
    return text, "a float bias (ONNX Runtime: QuantizeBias=False)", fixable


@_rule("conv-output-quantized", "slow", FLAVOURS, Q)
def _conv_output_quantized(view: QdqView, node: NodeProto) -> Verdict:
    if not (readers := view.fused_readers(node)):
        return None
    reader = readers[0][0]
    text = f"Q/DQ between a Conv and {reader.op_type} {view.label(reader)}: they cannot be fused"
    return text, "no Q/DQ there; that rounding disappears", True


@_rule("skip-not-quantized", "slow", FLAVOURS, "Add")
def _skip_not_quantized(view: QdqView, node: NodeProto) -> Verdict:
    if not view.has_float_skip(node):
        return None
    text = "int8 Conv plus a float skip: the fused kernel writes float, often slower than FP16"
    return text, "Q/DQ on the skip (an identity shares the pair of the block's input)", False


@_rule("quantize-without-dequantize", "slow", FLAVOURS, Q)
def _quantize_without_dequantize(view: QdqView, node: NodeProto) -> Verdict:
    readers = view.index.consumers[node.output[0]]
    odd = next((n for n in readers if n.op_type != DQ and not view.passes(n)), None)
    if odd is None:
        return None
    text = f"{odd.op_type} {view.label(odd)} computes with the integers: what follows is float"
    return text, "a DequantizeLinear behind the QuantizeLinear", False


@_rule("weights-stored-int8", "note", TRT8, DQ)
def _weights_stored_int8(view: QdqView, node: NodeProto) -> Verdict:
    stored = view.value(node.input[0])
    if stored is None or str(stored.dtype) != "int8":
        return None
    text = "int8 weights with a DQ alone: refused by TensorRT 8.4, undocumented in 8.5 and 8.6"
    return text, "float weights with Q and DQ (ONNX Runtime: AddQDQPairToWeight=True)", False


@_rule("unsupported-operator", "error", FLAVOURS, "node")
def _unsupported_operator(_: QdqView, node: NodeProto) -> Verdict:
    if node.op_type in _INSTEAD:
        return f"TensorRT has no {node.op_type}", f"use {_INSTEAD[node.op_type]}", False
    if node.domain in ("", "ai.onnx") or defs.has(node.op_type):
        return None  # TensorRT looks at the name alone
    return f"TensorRT has no {node.op_type} ({node.domain})", "standard ONNX operators", False


@_rule("uint8-input", "error", FLAVOURS, "node")
def _uint8_input(view: QdqView, node: NodeProto) -> Verdict:
    reads = any(i.name in node.input and view.type_of(i.name) == view.UINT8 for i in view.inputs)
    if not reads or node.op_type in ("Cast", DQ):
        return None
    return f"{node.op_type} of the uint8 input: TensorRT can only cast uint8", "Cast first", False


@_rule("dynamic-dimension", "error", FLAVOURS, "input")
def _dynamic_dimension(view: QdqView, value: ValueInfoProto) -> Verdict:
    dims = value.type.tensor_type.shape.dim
    free = [i for i, dim in enumerate(dims) if i and not dim.HasField("dim_value")]
    if not free:
        return None
    text = f"dimension {free[0]} is not fixed: an engine's profile here only varies the batch"
    return text, "export with fixed channels, height and width", False


@_rule("opset-operator", "error", TRT8, "node")
def _opset_operator(view: QdqView, node: NodeProto) -> Verdict:
    exempt = node.domain not in ("", "ai.onnx") or view.oldest_opset > _TRT8_OPSET
    if exempt or view.opset <= _TRT8_OPSET or not view.differs(node, _TRT8_OPSET):
        return None
    text = f"{node.op_type} of opset {view.opset} is not that of opset 17, TensorRT 8's newest"
    return text, "export for opset 17", False


@_rule("opset-label", "note", TRT8, "graph")
def _opset_label(view: QdqView, _: None) -> Verdict:
    if view.opset <= _TRT8_OPSET or not view.relabels(_TRT8_OPSET):
        return None
    return f"opset {view.opset}; TensorRT 8 documents 17", "the label of opset 17", True


@_rule("opset-new", "note", TRT10, "graph")
def _opset_new(view: QdqView, _: None) -> Verdict:
    if view.opset <= _TRT10_OPSET:
        return None
    text = f"opset {view.opset}; TensorRT 10.0 documents 20, and 10.15 24"
    return text, "the label of opset 20", view.relabels(_TRT10_OPSET)


@_rule("not-quantized", "note", TYPED, "graph")
def _not_quantized(view: QdqView, _: None) -> Verdict:
    if any(view.nodes(Q, DQ)):
        return None
    return "no Q/DQ nodes: everything runs in float", "quantize the model first", False
