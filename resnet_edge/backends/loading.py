"""The one way to load an engine: its sidecar is checked, then who built it."""

from __future__ import annotations

from pathlib import Path

from resnet_edge.backends.base import Session
from resnet_edge.backends.registry import get_backend
from resnet_edge.bundle.local import check_trust
from resnet_edge.bundle.sidecar import Sidecar, read_sidecar

__all__ = ["check_builder", "open_engine"]


def check_builder(engine: Path, sidecar: Sidecar, *, trusted: bool) -> None:
    """Refuse an engine whose native code nobody vouches for; others bring none along.

    Args:
        engine: The file.
        sidecar: What it is, as checked.
        trusted: The user vouches for it.

    Raises:
        EngineMismatchError: Somebody else built it.
    """
    if get_backend(sidecar.backend).native:
        check_trust(engine, sidecar.engine_sha256, trusted=trusted)


def open_engine(engine: Path, *, trusted: bool = False) -> Session:
    """Load an engine that this user built on this machine, or vouches for.

    Args:
        engine: The file; its sidecar stands beside it.
        trusted: The user vouches for it. No file can say so.

    Raises:
        BackendUnavailableError: The library or the device is missing.
        EngineMismatchError: The engine does not belong to this machine or runtime, is not what its
            sidecar describes, or nobody vouches for its code.
    """
    sidecar = read_sidecar(engine)
    check_builder(engine, sidecar, trusted=trusted)
    return get_backend(sidecar.backend).open(engine, sidecar, host_code=True)
