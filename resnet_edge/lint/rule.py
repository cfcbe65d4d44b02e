"""What a rule of the linter is, and for which TensorRT it speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from resnet_edge.lint.view import QdqView

__all__ = [
    "FLAVOURS",
    "TRT8",
    "TRT10",
    "TYPED",
    "Check",
    "Flavour",
    "Rule",
    "Severity",
    "Verdict",
    "registrar",
]

Severity = Literal["error", "slow", "note"]
Flavour = Literal["8.5", "8.6", "10-weak", "strong", "rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
TRT8: tuple[Flavour, ...] = ("8.5", "8.6")
TRT10: tuple[Flavour, ...] = ("10-weak", "strong")
TYPED: tuple[Flavour, ...] = ("strong", "rtx")

# What is wrong, what repairs it, and whether ``lint_fix`` does.
Verdict = tuple[str, str, bool] | None
Check = Callable[["QdqView", Any], Verdict]


class Rule(NamedTuple):
    """A check, and what it is about."""

    id: str
    severity: Severity
    flavours: tuple[Flavour, ...]
    kinds: tuple[str, ...]
    check: Check


def registrar(rules: list[Rule]) -> Callable[..., Callable[[Check], Check]]:
    """Return a decorator that enters a check into a list of rules."""

    def rule(
        identifier: str, severity: Severity, flavours: tuple[Flavour, ...], *kinds: str
    ) -> Callable[[Check], Check]:
        """Register a check.

        Kinds are operators, ``pair`` (a Q, or a DQ that does not just repeat its Q), ``node`` (any
        operator), ``input`` and ``graph``.
        """

        def register(check: Check) -> Check:
            rules.append(Rule(identifier, severity, flavours, kinds, check))
            return check

        return register

    return rule
