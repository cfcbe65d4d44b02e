"""Nodes of an ONNX graph: producers and consumers, constants, attributes, order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from resnet_edge.errors import GraphError

__all__ = ["GraphIndex", "attribute", "free_name", "insert_sorted", "prune"]


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
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


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


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, numbered where something else has it."""
    free, count = name, 1
    while free in taken:
        free, count = f"{name}_{count}", count + 1
    return free


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
