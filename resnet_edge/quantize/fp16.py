"""Cast a float graph to FP16, as strongly typed builders take precision from the graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex, insert_sorted
from resnet_edge.graph.operators import WEIGHTED

__all__ = ["HALF", "to_fp16"]

HALF = "_fp16"  # suffix of a tensor that is the FP16 cast of another


def to_fp16(model: ModelProto) -> ModelProto:
    """Return a copy that computes in FP16 from the first weighted layer to the logits.

    Inputs, whatever normalises them, and the logits stay as they are; a Cast stands on each side.

    Raises:
        GraphError: The graph has no weighted layer, or a weight does not fit FP16.
    """
    cast = onnx.ModelProto()
    cast.CopyFrom(model)
    graph = cast.graph
    entry = _entry(graph)
    inside = _downstream(graph, entry)
    half_entry = f"{entry}{HALF}"
    for node in inside:
        for position, name in enumerate(node.input):
            if name == entry:
                node.input[position] = half_entry
    _convert_constants(graph, inside)
    nodes: list[NodeProto] = list(graph.node)
    nodes.append(
        helper.make_node("Cast", [entry], [half_entry], name="to_fp16", to=TensorProto.FLOAT16)
    )
    for output in graph.output:
        half_output = f"{output.name}{HALF}"
        for node in nodes:
            for position, name in enumerate(node.output):
                if name == output.name:
                    node.output[position] = half_output
            for position, name in enumerate(node.input):
                if name == output.name:
                    node.input[position] = half_output
        nodes.append(
            helper.make_node(
                "Cast",
                [half_output],
                [output.name],
                name=f"{output.name}/to_fp32",
                to=TensorProto.FLOAT,
            )
        )
    insert_sorted(graph, nodes)
    del graph.value_info[:]
    return cast


def _entry(graph: GraphProto) -> str:
    for node in graph.node:
        if node.op_type in WEIGHTED:
            return str(node.input[0])
    raise GraphError("the graph has no Conv or Gemm")


def _downstream(graph: GraphProto, entry: str) -> list[NodeProto]:
    """Return the nodes that depend on ``entry``."""
    reached, nodes = {entry}, []
    for node in graph.node:
        if any(name in reached for name in node.input):
            reached.update(node.output)
            nodes.append(node)
    return nodes


def _convert_constants(graph: GraphProto, nodes: list[NodeProto]) -> None:
    index = GraphIndex(graph)
    limit = float(np.finfo(np.float16).max)
    converted: dict[str, str] = {}
    for node in nodes:
        for position, name in enumerate(node.input):
            value = index.constant(name)
            if value is None or value.dtype != np.float32:
                continue
            if name not in converted:
                if not np.abs(value).max(initial=0) <= limit:  # not a number does not fit either
                    raise GraphError(
                        f"{name} does not fit FP16: its largest magnitude is "
                        f"{np.abs(value).max():.3g}, FP16 ends at 65504",
                        hint="build in FP32, or INT8 with --no-fp16",
                    )
                converted[name] = f"{name}{HALF}"
                half = numpy_helper.from_array(value.astype(np.float16), converted[name])
                graph.initializer.append(half)
            node.input[position] = converted[name]
    used = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
