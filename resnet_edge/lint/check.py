"""Why TensorRT would reject a Q/DQ graph, or silently run a layer of it in float."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

from onnx import ModelProto

from resnet_edge.graph.operators import DQ, Q
from resnet_edge.lint.layer_rules import LAYER_RULES
from resnet_edge.lint.pair_rules import PAIR_RULES
from resnet_edge.lint.rule import FLAVOURS, Flavour, Severity
from resnet_edge.lint.view import QdqView

__all__ = ["FLAVOURS", "RULES", "Finding", "Flavour", "Severity", "lint", "select"]

RULES = (*PAIR_RULES, *LAYER_RULES)


@dataclass(frozen=True)
class Finding:
    """One thing TensorRT does not take as it stands.

    Attributes:
        rule: Stable id.
        severity: ``error``: rejected, or accepted and computed wrongly; ``slow``: runs in float,
            or in more kernels than needed; ``note``: worth knowing.
        node: Name of the node (of its first output if it has none), of a network
            input, or empty for the whole graph.
        message: What is wrong with it.
        fix: What repairs it; says so where the repair changes what the graph computes.
        flavours: Which TensorRT it concerns: ``8.5``, ``8.6``, ``10-weak``, ``strong`` (10.x with
            that flag, and 11), ``rtx``.
        fixable: Whether ``lint_fix.fix`` does the repair.
    """

    rule: str
    severity: Severity
    node: str
    message: str
    fix: str
    flavours: tuple[Flavour, ...]
    fixable: bool


def lint(model: ModelProto) -> tuple[Finding, ...]:
    """Return everything TensorRT would object to, errors first, then in graph order."""
    view = QdqView(model)
    subjects: list[tuple[str, set[str], Any]] = [("", {"graph"}, None)]
    subjects += [(value.name, {"input"}, value) for value in view.inputs]
    for label, node in view.labels.items():
        is_pair = node.op_type in (Q, DQ) and not view.echoes(node)
        subjects.append((label, {"node", node.op_type, "pair" if is_pair else ""}, node))
    findings = [
        Finding(rule.id, rule.severity, label, *verdict[:2], rule.flavours, verdict[2])
        for label, kinds, subject in subjects
        for rule in RULES
        if not kinds.isdisjoint(rule.kinds)
        if (verdict := rule.check(view, subject)) is not None
    ]
    ranks = get_args(Severity)
    return tuple(sorted(findings, key=lambda finding: ranks.index(finding.severity)))


def select(findings: Iterable[Finding], flavours: Iterable[Flavour]) -> tuple[Finding, ...]:
    """Keep what concerns the given flavours, and name only those."""
    wanted = set(flavours)
    kept = (replace(f, flavours=tuple(x for x in f.flavours if x in wanted)) for f in findings)
    return tuple(f for f in kept if f.flavours)
