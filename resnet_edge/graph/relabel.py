"""Opset and IR version by relabelling, checked operator by operator."""

from __future__ import annotations

from onnx import AttributeProto, ModelProto, NodeProto, defs
from onnx.defs import OpSchema
from onnx.helper import get_attribute_value

from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex, attribute

__all__ = ["opset_of", "set_opset"]

_ONLY_NEW_TYPES = frozenset({
    "Reshape", "Cast", "Identity", "Flatten", "Constant", "ConstantOfShape", "QuantizeLinear",
    "DequantizeLinear", "Conv", "ConvTranspose", "MaxPool", "GlobalAveragePool", "GlobalMaxPool",
    "AveragePool", "Relu", "Elu", "Selu", "Softplus", "HardSigmoid", "HardSwish",
    "InstanceNormalization", "Transpose", "Slice", "Shape",
})  # fmt: skip
_SPLIT_SIZES_ARE_AN_INPUT_SINCE, _AXES_ARE_AN_INPUT_SINCE = 13, 18


def opset_of(model: ModelProto) -> int:
    """Return the version of the default operator set."""
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def set_opset(model: ModelProto, opset: int, ir_version: int) -> None:
    """Relabel a model to another opset, in place, where that changes no operator's meaning.

    Pad-18 without an ``axes`` input is Pad-13, Split-18 without ``num_outputs`` is Split-13, a
    reduction of everything takes no axes in any opset; many others only gained types, or
    attributes that classifiers do not use. Attributes that say nothing are dropped where the other
    opset has no such; `save_graph` refuses the rest.

    Raises:
        GraphError: An operator means something else in the other opset.
    """
    have, index = opset_of(model), GraphIndex(model.graph)
    idle: list[tuple[NodeProto, AttributeProto]] = []
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(f"operator {node.domain}::{node.op_type} is not standard ONNX")
        try:
            old, new = (defs.get_schema(node.op_type, version) for version in (have, opset))
        except defs.SchemaError as error:
            raise GraphError(
                f"operator {node.op_type} ({node.name}) does not exist in opset {opset}"
            ) from error
        if old.since_version != new.since_version and not _means_the_same(node, opset):
            raise GraphError(
                f"operator {node.op_type} ({node.name}) differs between opset {have} and {opset}"
            )
        unknown = [item for item in node.attribute if item.name not in new.attributes]
        idle += [(node, item) for item in unknown if _says_nothing(node, item, old, index)]
    for node, item in idle:
        node.attribute.remove(item)
    del model.opset_import[:]
    model.opset_import.add(domain="", version=opset)
    model.ir_version = ir_version


def _says_nothing(
    node: NodeProto, item: AttributeProto, schema: OpSchema, index: GraphIndex
) -> bool:
    """Whether a node means the same without an attribute."""
    if item.name == "allowzero":
        shape = index.constant(node.input[1]) if len(node.input) == 2 else None
        return not item.i or (shape is not None and 0 not in shape)
    known = schema.attributes.get(item.name)
    if known is None or not known.default_value.name:
        return False
    return bool(get_attribute_value(item) == get_attribute_value(known.default_value))


def _means_the_same(node: NodeProto, opset: int) -> bool:
    """Whether a node reads the same in ``opset``, though its operator changed."""
    if node.op_type == "Pad":  # before 11 its pads were an attribute, since 18 it may name axes
        return 2 <= len(node.input) <= 3
    if node.op_type in ("Squeeze", "Unsqueeze"):  # before 13 their axes were an attribute
        return len(node.input) == 2
    if node.op_type == "Split":
        return opset >= _SPLIT_SIZES_ARE_AN_INPUT_SINCE and attribute(node, "num_outputs") is None
    if node.op_type in ("Add", "Sub", "Mul", "Div"):  # before 7 an attribute aligned the shapes
        return not node.attribute
    if node.op_type.startswith("Reduce"):
        return opset < _AXES_ARE_AN_INPUT_SINCE and len(node.input) == 1
    return node.op_type in _ONLY_NEW_TYPES
