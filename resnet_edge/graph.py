"""Reading and writing ONNX graphs: files, producers and consumers, constants, opsets."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import GraphError
from resnet_edge.files import atomic_path
from resnet_edge.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto
    from onnx.defs import OpSchema

__all__ = [
    "GraphIndex",
    "attribute",
    "expose",
    "fixed_batch",
    "infer_shapes",
    "insert_sorted",
    "load_graph",
    "opset_of",
    "prune",
    "save_graph",
    "set_opset",
    "tensor_specs",
]


def load_graph(path: Path) -> ModelProto:
    """Load an ONNX model, external data included.

    Raises:
        GraphError: The file is missing or is not ONNX.
    """
    import onnx

    if not path.is_file():
        raise GraphError(f"no such ONNX file: {path}")
    try:
        model = onnx.load(path)
    except Exception as error:
        raise GraphError(
            f"{path} cannot be read as ONNX: {error}",
            hint="the file is truncated, of another kind, or its external data is missing",
        ) from error
    if not model.graph.node:
        raise GraphError(f"{path} is not an ONNX model: it has no nodes")
    return model


def save_graph(model: ModelProto, path: Path) -> None:
    """Check a model and write it atomically, weights inside.

    Raises:
        GraphError: The model breaks ONNX's own rules.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise GraphError(f"the graph for {path.name} is not valid ONNX: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


class GraphIndex:
    """Who makes and who reads each tensor of a graph, as it is at the time of indexing."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.producer: dict[str, NodeProto] = {o: n for n in graph.node for o in n.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.initializers = {i.name: i for i in graph.initializer}
        self.outputs = {o.name for o in graph.output}

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of a constant tensor, or None if it is not constant."""
        from onnx import numpy_helper

        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producer.get(name)
        if node is not None and node.op_type == "Constant":
            for item in node.attribute:
                if item.name == "value":
                    return numpy_helper.to_array(item.t)
        return None

    def only_consumer(self, name: str) -> NodeProto | None:
        """Return the single reader of a tensor, or None if there are more or it is an output."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return a node attribute's value."""
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def infer_shapes(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the extents of every tensor whose rank is known, None where one is not."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int | None, ...]] = {
        i.name: tuple(int(d) for d in i.dims) for i in graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(
                int(d.dim_value) if d.HasField("dim_value") else None for d in tensor.shape.dim
            )
    return shapes


def expose(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """Return a copy of a model that also outputs ``tensors``, for ONNX Runtime."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in present)
    return copy


def fixed_batch(model: ModelProto) -> int | None:
    """Return how many images a model takes at once, None if it takes any number."""
    shape = model.graph.input[0].type.tensor_type.shape
    return int(shape.dim[0].dim_value) or None


def tensor_specs(model: ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and the outputs; a dimension without a number is None."""
    from onnx import helper

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        return TensorSpec(value.name, shape, str(dtype))

    constants = {i.name for i in model.graph.initializer}
    inputs = tuple(spec(i) for i in model.graph.input if i.name not in constants)
    return inputs, tuple(spec(o) for o in model.graph.output)


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
    from onnx import defs

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
    from onnx.helper import get_attribute_value

    if item.name == "allowzero":
        shape = index.constant(node.input[1]) if len(node.input) == 2 else None
        return not item.i or (shape is not None and 0 not in shape)
    known = schema.attributes.get(item.name)
    if known is None or not known.default_value.name:
        return False
    return bool(get_attribute_value(item) == get_attribute_value(known.default_value))


_ONLY_NEW_TYPES = frozenset({
    "Reshape", "Cast", "Identity", "Flatten", "Constant", "ConstantOfShape", "QuantizeLinear",
    "DequantizeLinear", "Conv", "ConvTranspose", "MaxPool", "GlobalAveragePool", "GlobalMaxPool",
    "AveragePool", "Relu", "Elu", "Selu", "Softplus", "HardSigmoid", "HardSwish",
    "InstanceNormalization", "Transpose", "Slice", "Shape",
})  # fmt: skip
_SPLIT_SIZES_ARE_AN_INPUT_SINCE, _AXES_ARE_AN_INPUT_SINCE = 13, 18


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


def prune(graph: GraphProto) -> None:
    """Remove nodes and initializers that no output depends on, in place."""
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(o in needed for o in node.output):
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    initializers = [i for i in graph.initializer if i.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    del graph.value_info[:]


def insert_sorted(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Replace the graph's nodes by ``nodes`` in an order that respects their inputs, in place."""
    available = {i.name for i in graph.input} | {i.name for i in graph.initializer} | {""}
    pending, ordered = list(nodes), []
    while pending:
        ready = [n for n in pending if all(i in available for i in n.input)]
        if not ready:
            raise GraphError(f"the graph has a cycle or a dangling input near {pending[0].name}")
        for node in ready:
            available.update(node.output)
        ordered += ready
        done = {id(n) for n in ready}
        pending = [n for n in pending if id(n) not in done]
    del graph.node[:]
    graph.node.extend(ordered)
