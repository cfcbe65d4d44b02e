"""Graph passes that need every shape: constants out of shape arithmetic, and a free batch again.

They work in place on a graph whose input has a fixed size; `fix_input` gives it one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex, attribute, free_name, prune
from resnet_edge.graph.onnx_model import infer_shapes

__all__ = [
    "fix_input",
    "fold_constants",
    "free_batch",
    "state_output",
    "store",
    "tensor_shapes",
]

BATCH = "batch"
_RANDOM = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")


def fix_input(model: ModelProto, shape: Sequence[int]) -> None:
    """Give the only input a fixed shape, and forget every other shape.

    Afterwards: `tensor_shapes` knows the input, and nothing the file said about other shapes.
    """
    (value,) = model.graph.input
    fixed = helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape)
    value.CopyFrom(fixed)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def state_output(model: ModelProto) -> tuple[int, ...]:
    """Write the shape of the only output into the graph, and return it.

    Raises:
        GraphError: It does not follow from the input's.
    """
    (output,) = model.graph.output
    output.type.tensor_type.ClearField("shape")
    shape = tensor_shapes(model).get(output.name)
    if shape is None:
        raise GraphError(
            f"the shape of {output.name} cannot be inferred",
            hint="export the model again with a fixed image size",
        )
    del output.type.tensor_type.shape.dim[:]
    for extent in shape:
        output.type.tensor_type.shape.dim.add().dim_value = extent
    return shape


def tensor_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor where it is known to the last extent."""
    known = {}
    for name, shape in infer_shapes(model).items():
        fixed = tuple(extent for extent in shape if extent is not None)
        if len(fixed) == len(shape):
            known[name] = fixed
    return known


def store(model: ModelProto, name: str, value: NDArray[Any]) -> str:
    """Add an initializer under this name or a similar one that is free; return the name."""
    graph = model.graph
    taken = {i.name for i in (*graph.initializer, *graph.input)}
    taken.update(o for n in graph.node for o in n.output)
    free = free_name(name, taken)
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), free))
    return free


def fold_constants(model: ModelProto) -> None:
    """Compute once whatever does not depend on the image.

    Afterwards: every constant is an initializer; no node has only initializers as inputs, and
    no Shape reads a tensor of known shape.
    """
    while _fold_once(model):
        pass
    prune(model.graph)


def _fold_once(model: ModelProto) -> bool:
    graph, shapes = model.graph, tensor_shapes(model)
    constant = {i.name for i in graph.initializer}
    known, compute, kept = dict[str, Any](), list[Any](), list[Any]()
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Shape" and inputs[0] in shapes:
            window = slice(attribute(node, "start", 0), attribute(node, "end"))
            known[node.output[0]] = np.array(shapes[inputs[0]][window], np.int64)
        elif all(name in constant for name in inputs) and node.op_type not in _RANDOM:
            compute.append(node)
        else:
            kept.append(node)
            continue
        constant.update(node.output)
    if not known and not compute:
        return False
    read = {name for n in kept for name in n.input} | {o.name for o in graph.output}
    known.update(_evaluate(model, compute, known, read))
    del graph.node[:]
    graph.node.extend(kept)
    for name, value in known.items():
        if name in read:
            store(model, name, value)
    return True


def _evaluate(
    model: ModelProto, nodes: list[NodeProto], known: dict[str, Any], wanted: set[str]
) -> dict[str, Any]:
    """Run nodes that depend on nothing but constants."""
    outputs = [o for n in nodes for o in n.output if o in wanted]
    if not outputs:
        return {}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(nodes)
    used = {name for n in nodes for name in n.input}
    part.graph.initializer.extend(i for i in model.graph.initializer if i.name in used)
    for name in used & known.keys():
        store(part, name, known[name])
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    with OnnxRuntimeSession(part, optimise="none") as session:
        return session.run({})


def free_batch(model: ModelProto) -> str | None:
    """Let the first dimension of the input be any number of images.

    Afterwards: the input and the output say so, and no Reshape, Flatten or Squeeze depends on the
    batch the shapes were fixed with. Where one mixes the images, nothing is changed.

    Returns:
        None, or the node that stands in the way.
    """
    graph, shapes = model.graph, tensor_shapes(model)
    index = GraphIndex(graph)
    batch = shapes[graph.input[0].name][0]
    targets: list[tuple[NodeProto, NDArray[np.int64]]] = []
    for node in graph.node:
        if node.op_type not in ("Reshape", "Flatten", "Squeeze"):
            continue
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if before is None or after is None or not _keeps_rows(node, index, before, after, batch):
            return node.name or str(node.output[0])
        if node.op_type == "Reshape":
            targets.append((node, np.array([0, *after[1:]], np.int64)))
        elif node.op_type == "Squeeze" and len(node.input) < 2:
            axes = [i for i, extent in enumerate(before) if extent == 1]
            targets.append((node, np.array(axes, np.int64)))
    for node, value in targets:
        name = store(model, f"{node.output[0]}_shape", value)
        del node.input[1:]
        node.input.append(name)
        if node.op_type == "Reshape":
            del node.attribute[:]  # allowzero would take the 0 literally
    for value in (graph.input[0], *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    prune(graph)
    return None


def _keeps_rows(
    node: NodeProto,
    index: GraphIndex,
    before: tuple[int, ...],
    after: tuple[int, ...],
    batch: int,
) -> bool:
    """Whether every image keeps its own row."""
    if not before or not after or before[0] != batch or after[0] != batch:
        return False
    if node.op_type == "Flatten":
        return int(attribute(node, "axis", 1)) in (1, 1 - len(before))
    if node.op_type == "Squeeze":
        axes = index.constant(node.input[1]) if len(node.input) > 1 else None
        gone = (
            [i for i, extent in enumerate(before) if extent == 1]
            if axes is None
            else [int(a) % len(before) for a in axes]
        )
        return 0 not in gone
    return True
