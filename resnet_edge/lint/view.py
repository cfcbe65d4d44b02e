"""Questions about a graph with Q/DQ nodes that the linter, its fixes and the readers ask."""

from __future__ import annotations

from functools import cached_property

from onnx import NodeProto

from resnet_edge.graph.nodes import attribute
from resnet_edge.graph.operators import COMMUTING, DQ, MULTIPLYING, Q
from resnet_edge.lint.typed_view import TypedView

__all__ = ["DQ", "MULTIPLYING", "Q", "QdqView"]

_PASSES = {*COMMUTING, "Transpose", "Unsqueeze"} - {"Pad"}
_FUSES = ("Relu", "Clip", "BatchNormalization")


class QdqView(TypedView):
    """A model, indexed also for questions about what is quantized and fused with what."""

    def passes(self, node: NodeProto) -> bool:
        """Whether TensorRT moves a Q or DQ across this node."""
        if node.op_type == "Cast":
            kinds = {self.type_of(node.input[0]), int(attribute(node, "to"))}
            return kinds <= {self.FLOAT, self.FLOAT16}
        if node.op_type != "Pad":
            return node.op_type in _PASSES
        if attribute(node, "mode", b"constant") != b"constant":
            return True
        fill = self.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return fill is None or not fill.any()

    def origin(self, name: str) -> NodeProto | None:
        """Return the nearest node above that Q and DQ do not move across."""
        node = self.index.producer.get(name)
        while node is not None and self.passes(node):
            node = self.index.producer.get(node.input[0])
        return node

    def dequantizer(self, name: str) -> NodeProto | None:
        """Return the DQ that a tensor comes from."""
        node = self.origin(name)
        return node if node is not None and node.op_type == DQ else None

    def weight_dq(self, node: NodeProto) -> NodeProto | None:
        """Return the DQ of a layer's constant weights."""
        name = node.input[1] if len(node.input) > 1 else ""
        return self.dequantizer(name) if name in self.constants else None

    def plain_weight_dq(self, node: NodeProto) -> NodeProto | None:
        """Return the DQ of a layer's weights where nothing moves their axes behind it."""
        maker = self.index.producer.get(node.input[1])
        while maker is not None and maker.op_type in ("Cast", "Identity"):
            maker = self.index.producer.get(maker.input[0])
        return maker if maker is not None and maker is self.weight_dq(node) else None

    def is_quantized(self, node: NodeProto | None) -> bool:
        """Whether a node is a Conv with DQs on both sides."""
        return (
            node is not None
            and node.op_type == "Conv"
            and self.weight_dq(node) is not None
            and self.dequantizer(node.input[0]) is not None
        )

    def output_axis(self, node: NodeProto) -> int:
        """Return which axis of a layer's weights is its output channel."""
        return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1

    def fused_readers(self, q: NodeProto) -> list[tuple[NodeProto, int]]:
        """Return who would be fused with the Conv in front of a Q, if the Q were not there.

        These are its activation, or a residual Add that has it as its main branch: node and input.
        """
        if self._conv(q.input[0]) is None:
            return []
        found = []
        for dq in self.index.consumers[q.output[0]]:
            for reader in self.index.consumers[dq.output[0]] if dq.op_type == DQ else []:
                position = list(reader.input).index(dq.output[0])
                is_main = reader.op_type == "Add" and self.main_input(reader) == position
                if is_main or (reader.op_type in _FUSES and position == 0):
                    found.append((reader, position))
        return found

    def main_input(self, add: NodeProto) -> int | None:
        """Return which input of a residual Add its Conv is fused through, None if there is none.

        Where one input comes straight from a quantized Conv and the other is dequantized, it is
        that one; else the input that ends the longer path from the network's input.
        """
        if any(name in self.constants for name in add.input):
            return None
        convs = [self._conv_behind(name) for name in add.input]
        straight = [
            i
            for i, conv in enumerate(convs)
            if self.is_quantized(conv) and self._conv(add.input[i]) is not None
        ]
        if len(straight) == 1 and self.dequantizer(add.input[1 - straight[0]]) is not None:
            return straight[0]
        candidates = [i for i, conv in enumerate(convs) if conv is not None]
        return max(candidates, key=lambda i: self._depths.get(add.input[i], 0), default=None)

    def has_float_skip(self, add: NodeProto) -> bool:
        """Whether a residual Add joins a quantized Conv with a float tensor."""
        main = self.main_input(add)
        return (
            main is not None
            and self.is_quantized(self._conv_behind(add.input[main]))
            and self.dequantizer(add.input[1 - main]) is None
        )

    def _conv(self, name: str) -> NodeProto | None:
        """Return the Conv that makes a tensor, its batch norm included."""
        node = self.index.producer.get(name)
        if node is not None and node.op_type == "BatchNormalization":
            node = self.index.producer.get(node.input[0])
        return node if node is not None and node.op_type == "Conv" else None

    def _conv_behind(self, name: str) -> NodeProto | None:
        """Return the Conv that makes a tensor, directly or through a Q/DQ pair."""
        dq = self.index.producer.get(name)
        if dq is None or dq.op_type != DQ:
            return self._conv(name)
        q = self.index.producer.get(dq.input[0])
        return self._conv(q.input[0]) if q is not None and q.op_type == Q else None

    @cached_property
    def _depths(self) -> dict[str, int]:
        depth: dict[str, int] = {}
        for node in self.graph.node:
            level = 1 + max((depth.get(name, 0) for name in node.input), default=0)
            depth.update(dict.fromkeys(node.output, level))
        return depth
