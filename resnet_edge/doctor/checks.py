"""One check: what was looked at, what was found, what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Status", "fail", "not_applicable", "ok", "warn"]

Status = Literal["ok", "warn", "fail", "n.a."]


@dataclass(frozen=True)
class Check:
    """A finding.

    Attributes:
        name: What was looked at.
        status: ``fail`` makes the backend unusable, ``warn`` does not.
        found: One line.
        fix: The command that mends it, or what to do; empty where nothing needs to be done.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Nothing to do."""
    return Check(name, "ok", found)


def warn(name: str, found: str, fix: str) -> Check:
    """It works, but not as well as it could."""
    return Check(name, "warn", found, fix)


def fail(name: str, found: str, fix: str) -> Check:
    """It does not work."""
    return Check(name, "fail", found, fix)


def not_applicable(name: str, found: str) -> Check:
    """This machine has no such thing, and needs none."""
    return Check(name, "n.a.", found)
