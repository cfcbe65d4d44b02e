"""All checks of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resnet_edge.backends.trtexec.binary import Trtexec
from resnet_edge.catalog.targets import Target
from resnet_edge.doctor.backends import check_backends
from resnet_edge.doctor.board import check_board
from resnet_edge.doctor.checks import Check
from resnet_edge.doctor.examined import Examined
from resnet_edge.errors import BackendUnavailableError

__all__ = ["Report", "examine"]


@dataclass(frozen=True)
class Report:
    """What `examine` found.

    Attributes:
        machine: What was looked at.
        board: Checks of the machine itself.
        backends: Checks of each backend.
    """

    machine: Examined
    board: tuple[Check, ...]
    backends: Mapping[str, tuple[Check, ...]]

    def usable(self, backend: str) -> bool:
        """Say whether a backend can be used: none of its checks failed."""
        return all(check.status != "fail" for check in self.backends[backend])

    def to_json(self) -> dict[str, Any]:
        """Return the stable keys of ``doctor --json``."""
        return {
            "machine": {**asdict(self.machine), "trtexec": _trtexec(self.machine.trtexec)},
            "board": [asdict(check) for check in self.board],
            "backends": {
                name: {"usable": self.usable(name), "checks": [asdict(c) for c in checks]}
                for name, checks in self.backends.items()
            },
        }


def _trtexec(found: Trtexec | BackendUnavailableError | None) -> dict[str, str] | None:
    if found is None:
        return None
    if isinstance(found, BackendUnavailableError):
        return {"error": found.message}
    return {"path": str(found.path), "version": found.version}


def examine(machine: Examined, targets: Sequence[Target]) -> Report:
    """Run every check on a machine."""
    return Report(
        machine=machine,
        board=tuple(check_board(machine, targets)),
        backends=check_backends(machine, targets),
    )
