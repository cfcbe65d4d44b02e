"""The machine as `doctor` sees it: with the trtexec that it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnet_edge.backends.trtexec.binary import Trtexec, ask_trtexec, locate_trtexec
from resnet_edge.device.machine import Machine, describe
from resnet_edge.errors import BackendUnavailableError

__all__ = ["Examined", "look"]


@dataclass(frozen=True)
class Examined(Machine):
    """A machine, and whether its trtexec works.

    Attributes:
        trtexec: None where there is none; why it cannot be used, where it does not work.
    """

    trtexec: Trtexec | BackendUnavailableError | None = None


def look(root: Path = Path("/")) -> Examined:
    """Look at this machine; never raises.

    Args:
        root: Where the files are that describe the device.
    """
    return Examined(**vars(describe(root)), trtexec=_trtexec(root))


def _trtexec(root: Path) -> Trtexec | BackendUnavailableError | None:
    path = locate_trtexec(root)
    try:
        return None if path is None else ask_trtexec(path)
    except BackendUnavailableError as error:
        return error
