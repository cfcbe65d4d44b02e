"""Questions about the nodes of a graph with Q/DQ: their parameters, types and opsets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, defs, helper

from resnet_edge.errors import GraphError
from resnet_edge.graph.nodes import GraphIndex, attribute
from resnet_edge.graph.operators import DQ, MULTIPLYING, Q
from resnet_edge.graph.relabel import opset_of, set_opset

__all__ = ["UINT8_MIDDLES", "TypedView"]

UINT8_MIDDLES = (127, 128)


class TypedView:
    """A model, indexed for questions about single nodes, as it is at the time of indexing.

    Attributes:
        labels: Every node by an unambiguous name: its own, else that of its first output.
        constants: Tensors that do not depend on the network's input.
        inputs: Network inputs that are no initializers.
    """

    def __init__(self, model: ModelProto) -> None:
        self.FLOAT, self.FLOAT16 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
        self.INT8, self.UINT8 = int(TensorProto.INT8), int(TensorProto.UINT8)
        self.INT32 = int(TensorProto.INT32)
        self.model, self.graph = model, model.graph
        self.index = GraphIndex(model.graph)
        self.opset = _opset(model)
        self.inputs = [i for i in self.graph.input if i.name not in self.index.initializers]
        self.labels: dict[str, NodeProto] = {}
        for node in self.graph.node:
            if node.op_type in (Q, DQ, "Add", *MULTIPLYING) and len(node.input) < 2:
                raise GraphError(f"{node.op_type} {node.name} has too few inputs: not valid ONNX")
            taken = not node.name or node.name in self.labels
            self.labels[node.output[0] if taken else node.name] = node
        self._differs: dict[tuple[str, str, int, int], bool] = {}
        self._label = {node.output[0]: label for label, node in self.labels.items()}
        self.constants = {"", *self.index.initializers}
        for node in self.graph.node:
            if all(name in self.constants for name in node.input):
                self.constants.update(node.output)

    def label(self, node: NodeProto) -> str:
        """Return the node's unambiguous name."""
        return self._label[node.output[0]]

    def nodes(self, *operators: str) -> Iterator[NodeProto]:
        """Yield the nodes of some operators."""
        return (n for n in self.graph.node if n.op_type in operators)

    def value(self, name: str | None) -> NDArray[Any] | None:
        """Return a constant's value, through Identity and any form of Constant."""
        found = None if name is None else self.index.constant(name)
        if found is not None or name is None:
            return found
        node = self.index.producer.get(name)
        if node is not None and node.op_type == "Identity":
            return self.value(node.input[0])
        if node is not None and node.op_type == "Constant":
            for key, dtype in (("float", np.float32), ("int", np.int64)):
                for suffix in ("", "s"):
                    given = attribute(node, f"value_{key}{suffix}")
                    if given is not None:
                        return np.array(given, dtype)
        return None

    def constant_shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of stored data, also where it passed through a Q; None if unknown."""
        if (stored := self.index.initializers.get(name)) is not None:
            return tuple(stored.dims)
        node = self.index.producer.get(name)
        if node is not None and node.op_type in (Q, "Identity"):
            return self.constant_shape(node.input[0])
        value = self.value(name)
        return None if value is None else value.shape

    def scale(self, node: NodeProto) -> NDArray[Any] | None:
        """Return the scale of a Q or DQ where it is stored."""
        return self.value(node.input[1])

    def zero_point(self, node: NodeProto) -> str | None:
        """Return the name of the zero-point, None if there is none."""
        return node.input[2] if len(node.input) > 2 and node.input[2] else None

    def axis(self, node: NodeProto) -> int:
        """Return the channel axis of a Q or DQ."""
        return int(attribute(node, "axis", 1))

    def is_uniform(self, node: NodeProto) -> bool:
        """Whether all scales are the same, and all zero-points."""
        scale, zero_point = self.scale(node), self.value(self.zero_point(node))
        return scale is not None and all(
            v is None or (v == v.reshape(-1)[:1]).all() for v in (scale, zero_point)
        )

    def echoes(self, node: NodeProto) -> bool:
        """Whether a DQ just repeats the parameters of the Q in front of it."""
        q = self.index.producer.get(node.input[0])
        if node.op_type != DQ or q is None or q.op_type != Q or len(q.input) != len(node.input):
            return False
        return all(
            a == b or self._equal(a, b) for a, b in zip(q.input[1:], node.input[1:], strict=True)
        )

    def _equal(self, one: str, other: str) -> bool:
        a, b = self.value(one), self.value(other)
        return a is not None and b is not None and a.dtype == b.dtype and (a == b).all()

    @cached_property
    def types(self) -> dict[str, int]:
        """ONNX element type by tensor, as far as it follows from inputs, constants, Q, DQ, Cast."""
        known = {i.name: i.type.tensor_type.elem_type for i in self.graph.input}
        known |= {name: tensor.data_type for name, tensor in self.index.initializers.items()}
        for node in self.graph.node:
            if node.op_type == Q:
                found = self.integer_type(node, known)
            elif node.op_type == DQ:
                found = known.get(node.input[1], self.FLOAT)
            elif node.op_type == "Cast":
                found = int(attribute(node, "to"))
            elif node.op_type == "Constant":
                tensor = attribute(node, "value")
                found = self.FLOAT if tensor is None else tensor.data_type
            else:
                found = known.get(node.input[0], 0) if node.input else 0
            known.update(dict.fromkeys(node.output, found))
        return known

    def type_of(self, name: str) -> int:
        """Return a tensor's ONNX element type, 0 if unknown."""
        return self.types.get(name, 0)

    def integer_type(self, node: NodeProto, known: dict[str, int] | None = None) -> int:
        """Return what a Q gives; without any sign of a type int8, as TensorRT takes it."""
        known = self.types if known is None else known
        readers = [n for n in self.index.consumers[node.output[0]] if n.op_type == DQ]
        for name in (self.zero_point(node), *map(self.zero_point, readers)):
            if name is not None and name in known:
                return known[name]
        return int(attribute(node, "output_dtype", 0)) or self.INT8

    def is_guess(self, q: NodeProto) -> bool:
        """Whether nothing says what type of integer a Q gives."""
        readers = [n for n in self.index.consumers[q.output[0]] if n.op_type == DQ]
        typed = attribute(q, "output_dtype", 0) or any(map(self.zero_point, (q, *readers)))
        return not typed

    @cached_property
    def oldest_opset(self) -> int:
        """The first opset that allows the types the Q and DQ nodes have."""
        first = {self.FLOAT16: 19, TensorProto.FLOAT8E4M3FN: 19, TensorProto.FLOAT8E5M2: 19}
        first |= dict.fromkeys((TensorProto.INT16, TensorProto.UINT16), 21)
        first |= dict.fromkeys((TensorProto.INT4, TensorProto.UINT4), 21)
        tensors = (name for node in self.nodes(Q, DQ) for name in (*node.input, *node.output))
        return max((first.get(self.type_of(name), 13) for name in tensors), default=13)

    def takes_fp32_scales(self) -> bool:
        """Whether everything around the Q/DQ nodes is FP32, so that the scales can be too."""
        scales = {n.input[1] for n in self.nodes(Q, DQ)}
        sources = {i.name for i in self.inputs} | set(self.index.initializers)
        sources |= {name for n in self.nodes("Cast", "Constant") for name in n.output}
        read = {name for name in sources - scales if self.index.consumers[name]}
        return all(self.type_of(name) != self.FLOAT16 for name in read)

    def shifted(self, node: NodeProto) -> NDArray[Any] | None:
        """Return a DQ's stored integers as int8 with zero-point 0, None if they do not fit."""
        data, zero_point = self.value(node.input[0]), self.value(self.zero_point(node))
        if node.op_type != DQ or data is None or data.dtype not in (np.int8, np.uint8):
            return None
        if zero_point is not None and zero_point.size > 1:
            shape = [1] * data.ndim
            shape[self.axis(node)] = -1
            zero_point = zero_point.reshape(shape)
        shift = 0 if zero_point is None else zero_point.astype(np.int32)
        moved = data.astype(np.int32) - shift
        fits = moved.min(initial=0) >= -128 and moved.max(initial=0) <= 127
        return moved.astype(np.int8) if fits else None

    def is_shiftable(self, node: NodeProto) -> bool:
        """Whether uint8 around its middle can become int8 around 0.

        With the same result, but around 127, as older ONNX Runtimes write it, for the largest of
        the 256 steps, which int8 cuts off.
        """
        if node.op_type == DQ:
            return self.shifted(node) is not None
        readers = self.index.consumers[node.output[0]]
        pair = [self.value(self.zero_point(n)) for n in (node, *readers) if n.op_type in (Q, DQ)]
        return (
            node.output[0] not in self.index.outputs
            and all(n.op_type == DQ for n in readers)
            and any(
                all(z is not None and (z == middle).all() for z in pair) for middle in UINT8_MIDDLES
            )
            and self.integer_type(node) == self.UINT8
        )

    def relabels(self, opset: int) -> bool:
        """Whether the graph means the same in another opset."""
        return opset >= self.oldest_opset and not any(
            self.differs(node, opset) for node in self.graph.node
        )

    def differs(self, node: NodeProto, opset: int) -> bool:
        """Whether an operator means something else in another opset."""
        key = (node.domain, node.op_type, len(node.input), opset)
        if key not in self._differs:
            self._differs[key] = self._ask_whether_it_differs(node, opset)
        unknown = {} if self._differs[key] else self.newer_attributes(node, opset)
        return self._differs[key] or not all(unknown.values())

    def newer_attributes(self, node: NodeProto, opset: int) -> dict[str, bool]:
        """Return which attributes are unknown in another opset, and whether they say nothing."""
        if not node.attribute:
            return {}
        known = defs.get_schema(node.op_type, opset).attributes
        unknown = {}
        for item in node.attribute:
            if item.name not in known:
                default = defs.get_schema(node.op_type, self.opset).attributes[item.name]
                is_default = helper.get_attribute_value(item) == helper.get_attribute_value(
                    default.default_value
                )
                repeats = item.name == "output_dtype" and self.zero_point(node) is not None
                unknown[item.name] = is_default or repeats
        return unknown

    def _ask_whether_it_differs(self, node: NodeProto, opset: int) -> bool:
        alone = onnx.ModelProto(ir_version=self.model.ir_version)
        alone.opset_import.add(domain="", version=self.opset)
        alone.graph.node.add(op_type=node.op_type, domain=node.domain, input=node.input)
        try:
            set_opset(alone, opset, self.model.ir_version)
        except GraphError:
            return True
        return False


def _opset(model: ModelProto) -> int:
    try:
        return opset_of(model)
    except StopIteration:
        raise GraphError("the model does not say its opset: not valid ONNX") from None
