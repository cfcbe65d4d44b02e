"""The repairs that ``lint`` calls fixable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from resnet_edge.graph.nodes import prune
from resnet_edge.graph.operators import Q
from resnet_edge.graph.relabel import set_opset
from resnet_edge.lint.check import FLAVOURS, RULES, Finding, Flavour, lint, select
from resnet_edge.lint.view import QdqView
from resnet_edge.quantize.weights import quantize_weight, weight_scales

__all__ = ["FixResult", "fix"]


@dataclass(frozen=True)
class FixResult:
    """A repaired model.

    Attributes:
        model: The repaired copy.
        fixed: What was found and repaired, in the order of repair.
        findings: What is still to be said about the copy, for those flavours.
    """

    model: ModelProto
    fixed: tuple[Finding, ...]
    findings: tuple[Finding, ...]


def fix(model: ModelProto, flavours: Iterable[Flavour] = FLAVOURS) -> FixResult:
    """Repair a copy of a model where ``lint`` says it can be.

    The copy computes the same, except where a finding says otherwise.

    Args:
        model: Any Q/DQ graph.
        flavours: Repair only what concerns one of these.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    checks = {rule.id: rule.check for rule in RULES}
    flavours = tuple(flavours)
    findings, fixed = select(lint(copy), flavours), list[Finding]()
    for rule, repair in _REPAIRS.items():
        due = [f for f in findings if f.rule == rule and f.fixable]
        for finding in due:
            editor = _Editor(QdqView(copy))
            node = editor.view.labels.get(finding.node)
            if node is None and finding.node:
                continue
            verdict = checks[rule](editor.view, node)  # an earlier repair may have done this one
            if verdict is not None and verdict[2]:
                repair(editor, node)
        if due:
            prune(copy.graph)
            findings = select(lint(copy), flavours)
            left = {(f.rule, f.node) for f in findings}
            fixed += [f for f in due if (f.rule, f.node) not in left]
    return FixResult(copy, tuple(fixed), findings)


class _Editor:
    """Changes to the graph behind a view."""

    def __init__(self, view: QdqView) -> None:
        self.view = view
        self.graph = view.graph
        self._stored: dict[tuple[str, str, tuple[int, ...], bytes], str] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store a value, once, under this name or a similar one that is free; return the name."""
        key = (name, value.dtype.str, value.shape, value.tobytes())
        if key in self._stored:
            return self._stored[key]
        taken = {i.name for i in self.graph.initializer} | self.view.types.keys()
        free, count = name, 1
        while free in taken:
            free, count = f"{name}_{count}", count + 1
        self.graph.initializer.append(numpy_helper.from_array(value, free))
        return self._stored.setdefault(key, free)

    def set_scale(self, node: NodeProto, scale: NDArray[Any]) -> None:
        """Give a Q or DQ another scale."""
        node.input[1] = self.constant(f"{node.input[1]}_new", scale)

    def set_zeros(self, node: NodeProto, integer: int) -> None:
        """Give a Q or DQ one zero-point of 0 for each scale it has by now."""
        stored = {i.name: i for i in self.graph.initializer}.get(node.input[1])
        scale = self.view.scale(node) if stored is None else numpy_helper.to_array(stored)
        assert scale is not None  # else the finding is not fixable
        zeros = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(integer))
        del node.input[2:]
        node.input.append(self.constant(f"{node.input[1]}_zero_point", zeros))

    def set_axis(self, node: NodeProto, axis: int | None) -> None:
        """Give a Q or DQ another axis, or none."""
        self.drop(node, "axis")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))

    def drop(self, node: NodeProto, *names: str) -> None:
        """Remove attributes."""
        kept = [a for a in node.attribute if a.name not in names]
        del node.attribute[:]
        node.attribute.extend(kept)

    def pair(self, node: NodeProto) -> list[NodeProto]:
        """Return a Q and the DQs that repeat it, or a DQ alone."""
        readers = self.view.index.consumers[node.output[0]] if node.op_type == Q else []
        return [node, *filter(self.view.echoes, readers)]

    def relabel(self, opset: int, ir_version: int) -> None:
        """Give the model another opset, without attributes that say nothing there."""
        for node in self.graph.node:
            self.drop(node, *self.view.newer_attributes(node, opset))
        set_opset(self.view.model, opset, ir_version)


def _fold_bias(editor: _Editor, dq: NodeProto) -> None:
    view = editor.view
    steps, scale = view.value(dq.input[0]), view.scale(dq)
    zero_point = view.value(view.zero_point(dq))
    assert steps is not None  # else the finding is not fixable
    assert scale is not None
    bias = (steps - (0 if zero_point is None else zero_point)).astype(scale.dtype) * scale
    editor.graph.node.remove(dq)
    stored = numpy_helper.from_array(np.asarray(bias, scale.dtype), dq.output[0])
    editor.graph.initializer.append(stored)


def _add_zero_point(editor: _Editor, node: NodeProto) -> None:
    name = node.output[0] if node.op_type == Q else node.input[0]
    editor.set_zeros(node, editor.view.type_of(name))


def _resize_zero_point(editor: _Editor, node: NodeProto) -> None:
    name = node.output[0] if node.op_type == Q else node.input[0]
    for member in editor.pair(node):
        editor.set_zeros(member, editor.view.type_of(name))


def _shift(editor: _Editor, node: NodeProto) -> None:
    members = [node]
    if node.op_type == Q:
        members += editor.view.index.consumers[node.output[0]]
        editor.drop(node, "output_dtype")
    else:
        stored = editor.view.shifted(node)
        assert stored is not None  # else the finding is not fixable
        node.input[0] = editor.constant(f"{node.input[0]}_int8", stored)
    for member in members:
        editor.set_zeros(member, editor.view.INT8)


def _make_scalar(editor: _Editor, node: NodeProto) -> None:
    for member in editor.pair(node):
        scale, zero_point = editor.view.scale(member), editor.view.zero_point(member)
        assert scale is not None  # else the finding is not fixable
        editor.set_scale(member, scale.reshape(-1)[:1].reshape(()))
        editor.set_axis(member, None)
        if zero_point is not None:
            editor.set_zeros(member, editor.view.type_of(zero_point))


def _turn_weight(editor: _Editor, layer: NodeProto) -> None:
    view = editor.view
    dq, axis = view.plain_weight_dq(layer), view.output_axis(layer)
    assert dq is not None  # else there is no finding
    q = view.index.producer.get(dq.input[0])
    first = dq if q is None or q.op_type != Q else q
    if view.is_uniform(dq):
        _make_scalar(editor, first)
        return
    data, scale = view.value(first.input[0]), view.scale(dq)
    assert data is not None  # its shape is known
    assert scale is not None
    if first is dq:
        along = [-1 if i == view.axis(dq) % data.ndim else 1 for i in range(data.ndim)]
        data = data.astype(scale.dtype) * scale.reshape(along)
    channels_first = np.moveaxis(data, axis, 0)
    scales = weight_scales(channels_first.astype(scale.dtype))
    if first is dq:
        steps = np.moveaxis(quantize_weight(channels_first, scales), 0, axis)
        dq.input[0] = editor.constant(f"{dq.input[0]}_new", np.ascontiguousarray(steps))
    for member in editor.pair(first):
        editor.set_scale(member, scales)
        editor.set_axis(member, axis)
        editor.set_zeros(member, view.INT8)


def _raise_opset(editor: _Editor, node: NodeProto) -> None:
    if not editor.view.takes_fp32_scales():
        editor.relabel(19, max(editor.view.model.ir_version, 9))
        return
    for member in editor.pair(node):
        scale = editor.view.scale(member)
        assert scale is not None  # else the finding is not fixable
        editor.set_scale(member, scale.astype(np.float32))


def _unblock_fusion(editor: _Editor, q: NodeProto) -> None:
    for reader, position in editor.view.fused_readers(q):
        reader.input[position] = q.input[0]


_REPAIRS: dict[str, Callable[[_Editor, Any], None]] = {
    "bias-int32": _fold_bias,
    "zero-point-missing": _add_zero_point,
    "zero-point-size": _resize_zero_point,
    "zero-point-nonzero": _shift,
    "zero-point-uint8": _shift,
    "activation-scale-vector": _make_scalar,
    "activation-per-channel": _make_scalar,
    "weight-axis": _turn_weight,
    "scale-fp16-opset": _raise_opset,
    "conv-output-quantized": _unblock_fusion,
    "opset-label": lambda editor, _: editor.relabel(17, min(editor.view.model.ir_version, 8)),
    "opset-new": lambda editor, _: editor.relabel(20, editor.view.model.ir_version),
}
