"""Graph passes: outputs, opset, operators that do nothing, pooling, names.

Every pass changes a model in place and says what holds afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, version_converter

from resnet_edge.errors import GraphError
from resnet_edge.export.normalize.shapes import state_output, store, tensor_shapes
from resnet_edge.graph.nodes import GraphIndex, attribute, free_name, prune
from resnet_edge.graph.onnx_model import infer_shapes
from resnet_edge.graph.relabel import opset_of

__all__ = [
    "bypass",
    "drop_no_ops",
    "flatten_output",
    "keep_output",
    "older_forms",
    "pool_globally",
    "raise_opset",
    "rename",
    "tidy_names",
]

# What quantize and to_fp16 call the tensors they add to another.
_DERIVED = ("_quantized", "_dequantized", "_scale", "_zero_point", "_fp16")

# Operators whose axes became an input in opset 18.
_REDUCTIONS = frozenset(
    f"Reduce{kind}"
    for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)


def keep_output(model: ModelProto, tensor: str) -> None:
    """Make one tensor the only output.

    Afterwards: the graph has this output, and no node that it does not depend on.
    """
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    prune(model.graph)


def raise_opset(model: ModelProto, opset: int) -> None:
    """Translate an older model.

    Afterwards: the model is of this opset or a later one.

    Raises:
        GraphError: An operator has no translation.
    """
    if opset_of(model) >= opset:
        return
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # whatever the C++ converter throws
        raise GraphError(
            f"the model cannot be translated from opset {opset_of(model)} to {opset}: {error}",
            hint=f"export it again with opset {opset}",
        ) from error
    model.CopyFrom(converted)
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))


def drop_no_ops(model: ModelProto) -> None:
    """Remove what does nothing at inference, and write a sum of two as an Add.

    Afterwards: no Identity, no Dropout, no Sum of fewer than three, no Transpose that keeps the
    order.
    """
    for node in list(model.graph.node):
        if _does_nothing(node):
            bypass(model.graph, node)
        elif node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"
    prune(model.graph)


def _does_nothing(node: NodeProto) -> bool:
    if node.op_type == "Transpose":
        order = list(attribute(node, "perm", []))
        return bool(order) and order == sorted(order)
    return node.op_type in ("Identity", "Dropout") or (
        node.op_type == "Sum" and len(node.input) == 1
    )


def bypass(graph: GraphProto, node: NodeProto) -> None:
    """Remove a node; whoever read its output reads its input."""
    source, target = node.input[0], node.output[0]
    if target in {o.name for o in graph.output}:
        if source not in {o for n in graph.node for o in n.output}:
            return  # an output that is an input or a constant needs the node
        source, target = target, source
    graph.node.remove(node)
    rename(graph, {target: source})


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Let the nodes know tensors under other names."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            for position, name in enumerate(tensors):
                tensors[position] = names.get(name, name)


def pool_globally(model: ModelProto) -> None:
    """Write every mean over a whole feature map as a GlobalAveragePool.

    ReduceMean changed its inputs in opset 18, and the pooling operator is what TensorRT and ONNX
    Runtime have INT8 kernels for. The batch may be free.

    Afterwards: no ReduceMean over height and width, in either layout, and no AveragePool whose
    window is the image.
    """
    graph, index, shapes = model.graph, GraphIndex(model.graph), infer_shapes(model)
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += _as_global_pool(node, index, shapes) or [node]
    del graph.node[:]
    graph.node.extend(nodes)
    prune(graph)


def _as_global_pool(
    node: NodeProto, index: GraphIndex, shapes: dict[str, tuple[int | None, ...]]
) -> list[NodeProto]:
    """Return what replaces a node, nothing if it is no global pool."""
    source = node.input[0] if node.input else ""
    shape = shapes.get(source, ())
    if len(shape) != 4:
        return []
    if node.op_type == "AveragePool":
        whole = list(attribute(node, "kernel_shape")) == list(shape[2:])
        if not whole or any(attribute(node, "pads", [])) or _is_same_padded(node):
            return []
        return [helper.make_node("GlobalAveragePool", [source], list(node.output), name=node.name)]
    axes = _mean_axes(node, index)
    order = [0, 1, 2, 3]
    before = index.producer.get(source)
    if axes == [1, 2] and before is not None and before.op_type == "Transpose":
        order, source = list(attribute(before, "perm")), before.input[0]
    if sorted(order[a] for a in axes) != [2, 3] or order[0] != 0:
        return []
    target = node.output[0]
    pooled = f"{target}_pooled"
    pool = helper.make_node("GlobalAveragePool", [source], [pooled], name=node.name)
    if not attribute(node, "keepdims", 1):
        return [pool, helper.make_node("Flatten", [pooled], [target], axis=1)]
    if order != [0, 1, 2, 3]:
        return [pool, helper.make_node("Transpose", [pooled], [target], perm=order)]
    pool.output[0] = target
    return [pool]


def _mean_axes(node: NodeProto, index: GraphIndex) -> list[int]:
    """Return the axes of a ReduceMean of rank 4, nothing for other nodes."""
    if node.op_type != "ReduceMean":
        return []
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = index.constant(node.input[1])
    return [] if axes is None else sorted(int(a) % 4 for a in axes)


def _is_same_padded(node: NodeProto) -> bool:
    return bool(attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"))


def older_forms(model: ModelProto) -> None:
    """Write what opset 18 takes in a new form as opset 17 takes it.

    Afterwards: no Split has ``num_outputs``, and reductions have their axes as an attribute.
    """
    index, shapes = GraphIndex(model.graph), tensor_shapes(model)
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type == "Split" and attribute(node, "num_outputs") is not None:
            axis = int(attribute(node, "axis", 0))
            parts = [shapes[o][axis] for o in node.output if o in shapes]
            if len(parts) == len(node.output):
                _drop_attribute(node, "num_outputs")
                del node.input[1:]
                node.input.append(store(model, f"{name}_parts", np.array(parts, np.int64)))
        elif node.op_type in _REDUCTIONS and len(node.input) > 1:
            axes = index.constant(node.input[1])
            if axes is not None and axes.size:
                _drop_attribute(node, "noop_with_empty_axes")
                node.attribute.append(helper.make_attribute("axes", [int(a) for a in axes]))
                del node.input[1:]
    prune(model.graph)


def _drop_attribute(node: NodeProto, name: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def flatten_output(model: ModelProto) -> None:
    """Give every image one row of logits.

    Afterwards: the output has rank 2, and the graph says so.
    """
    (output,) = model.graph.output
    if len(state_output(model)) == 2:
        return
    inner = f"{output.name}_unflattened"
    rename(model.graph, {output.name: inner})
    model.graph.node.append(helper.make_node("Flatten", [inner], [output.name], axis=1))
    state_output(model)


def tidy_names(model: ModelProto) -> None:
    """Name the input ``input``, the output ``logits``, and every node.

    Afterwards: these are the names; nodes have different ones; and no tensor has the name of
    something that a later stage derives from another tensor.
    """
    graph = model.graph
    tensors = [i.name for i in graph.input] + [o for n in graph.node for o in n.output if o]
    tensors += [i.name for i in graph.initializer]
    taken = set(tensors)
    renamed = {graph.input[0].name: "input", graph.output[0].name: "logits"}
    for name in tensors:
        stems = [name.removesuffix(s) for s in _DERIVED if name.endswith(s)]
        if name not in renamed and (name in ("input", "logits") or taken.intersection(stems)):
            free = free_name(f"{name}_", taken)
            taken.add(free)
            renamed[name] = free
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
    rename(graph, renamed)
    used = set[str]()
    for position, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{position}"
        node.name = node.name if node.name not in used else f"{node.name}_{position}"
        used.add(node.name)
