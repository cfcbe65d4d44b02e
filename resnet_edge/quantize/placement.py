"""Which tensors of an FP32 ResNet graph are quantized.

The TensorRT rule (docs/quantization, sources in the decisions): the input of every Conv and Gemm,
the input of the global pool, and the *residual* input of every Add; never the main-branch input,
so that Conv + Add + ReLU still fuses. Operators that commute with quantization (max-pool, slice,
zero-pad, reshape) have no range of their own: the tensor in front of them is quantized instead.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex
from resnet_edge.graph.operators import DQ, WEIGHTED, Q, commutes

__all__ = ["Placement", "origin_of", "place", "reader_behind"]


@dataclass(frozen=True)
class Placement:
    """Where quantization happens.

    Attributes:
        engine_points: Tensors that get a Q/DQ pair in the TensorRT graph, in graph order.
        twin_points: Tensors that get a Q/DQ pair with a range of its own in the CPU twin.
        main_inputs: For every residual Add (by output name) the input that stays unquantized.
        weighted: Names of the Conv and Gemm outputs whose weights are quantized.
        float_nodes: Outputs of Adds and pools whose layer stays in float: there is no INT8 kernel
            to fuse into, so they read float tensors.
    """

    engine_points: tuple[str, ...]
    twin_points: tuple[str, ...]
    main_inputs: dict[str, str]
    weighted: tuple[str, ...]
    float_nodes: frozenset[str] = frozenset()

    @property
    def tensors(self) -> tuple[str, ...]:
        """All tensors whose range must be known."""
        return tuple(dict.fromkeys((*self.engine_points, *self.twin_points)))


def place(graph: GraphProto, *, keep_float: Collection[str] = ()) -> Placement:
    """Decide where the Q/DQ pairs of a CNN classifier go.

    Args:
        graph: Float graph.
        keep_float: Names of Conv and Gemm nodes that stay unquantized.

    Raises:
        GraphError: The graph is already quantized, or has no convolution to quantize.
    """
    if any(n.op_type in (Q, DQ) for n in graph.node):
        raise GraphError(
            "the model is already explicitly quantized (it has Q/DQ nodes)",
            hint="start from the float model",
        )
    index = GraphIndex(graph)
    weighted = [
        n.output[0]
        for n in graph.node
        if n.op_type in WEIGHTED and n.name not in keep_float and _has_constant_weight(n, index)
    ]
    if not weighted and not keep_float:
        raise GraphError("the graph has no Conv or Gemm with constant weights to quantize")
    adds = [n for n in graph.node if n.op_type == "Add" and not _has_constant_input(n, index)]
    depth = _depths(graph)
    main_inputs = {n.output[0]: max(n.input, key=lambda t: depth.get(t, (0, 0))) for n in adds}

    float_nodes = {n.output[0] for n in graph.node if _stays_float(n, main_inputs, weighted, index)}
    wanted: set[str] = set()
    for node in graph.node:
        if node.output[0] in float_nodes:
            continue
        if node.output[0] in weighted or node.op_type == "GlobalAveragePool":
            wanted.add(origin_of(node.input[0], index))
        elif node.op_type == "Add" and node.output[0] in main_inputs:
            wanted.update(
                origin_of(t, index) for t in node.input if t != main_inputs[node.output[0]]
            )
    order = [i.name for i in graph.input] + [o for n in graph.node for o in n.output]
    first = min((order.index(t) for t in wanted), default=len(order))
    twin = [t for t in order[first:] if _needs_range_in_twin(t, index)]
    return Placement(
        engine_points=tuple(t for t in order if t in wanted),
        twin_points=tuple(twin),
        main_inputs=main_inputs,
        weighted=tuple(weighted),
        float_nodes=frozenset(float_nodes),
    )


def _stays_float(
    node: NodeProto, main_inputs: dict[str, str], weighted: list[str], index: GraphIndex
) -> bool:
    """Whether an Add's convolution, or the layer behind the global pool, is kept in float."""
    if node.op_type == "Add" and node.output[0] in main_inputs:
        main = main_inputs[node.output[0]]
        producer = index.producer.get(main)
        return producer is not None and producer.op_type == "Conv" and main not in weighted
    if node.op_type == "GlobalAveragePool":
        reader = reader_behind(node.output[0], index)
        return (
            reader is not None and reader.op_type in WEIGHTED and reader.output[0] not in weighted
        )
    return False


def origin_of(tensor: str, index: GraphIndex) -> str:
    """Walk up through operators that commute with quantization."""
    node = index.producer.get(tensor)
    while node is not None and commutes(node):
        tensor = node.input[0]
        node = index.producer.get(tensor)
    return tensor


def reader_behind(tensor: str, index: GraphIndex) -> NodeProto | None:
    """Walk down through operators that commute with quantization to the only reader, if any."""
    reader = index.only_consumer(tensor)
    while reader is not None and commutes(reader):
        reader = index.only_consumer(reader.output[0])
    return reader


def _needs_range_in_twin(tensor: str, index: GraphIndex) -> bool:
    """Every tensor between integer operators, unless ReLU or a commuting operator takes care."""
    if tensor in index.outputs or not index.consumers.get(tensor):
        return False
    reader = index.only_consumer(tensor)
    if reader is not None and reader.op_type == "Relu":
        return False  # the Q directly after the ReLU absorbs it
    node = index.producer.get(tensor)
    return node is None or not commutes(node)


def _has_constant_weight(node: NodeProto, index: GraphIndex) -> bool:
    return len(node.input) > 1 and index.constant(node.input[1]) is not None


def _has_constant_input(node: NodeProto, index: GraphIndex) -> bool:
    return any(index.constant(name) is not None for name in node.input)


def _depths(graph: GraphProto) -> dict[str, tuple[int, int]]:
    """Return the longest path from an input to each tensor: weighted layers, then all operators.

    The main branch of a block holds more weighted layers than its shortcut, even where a
    parameter-free shortcut consists of as many operators.
    """
    depth = {i.name: (0, 0) for i in graph.input}
    for node in graph.node:
        layers, operators = max((depth.get(name, (0, 0)) for name in node.input), default=(0, 0))
        for output in node.output:
            depth[output] = (layers + (node.op_type in WEIGHTED), operators + 1)
    return depth
