"""What this user knows on this machine and no bundle may say: own engines, and where files lie.

One small file a fact, named by a hash, in the user's own state folder (``$XDG_STATE_HOME``, else
``~/.local/state``). A bundle travels and may come from anybody; these files do not travel. An
engine runs its author's native code in this process, so only one that is recorded here, or that
the user vouches for, is loaded. See SECURITY.md.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from resnet_edge.errors import BundleError, EngineMismatchError
from resnet_edge.files import read_json, write_json

__all__ = ["check_trust", "find_path", "is_own_engine", "remember_engine", "remember_path"]

log = logging.getLogger(__name__)

Kind = Literal["engines", "checkpoints", "images"]

_HASH = re.compile(r"[0-9a-f]{64}")


def remember_engine(sha256: str) -> None:
    """Record that this user built the engine of this hash on this machine."""
    _write("engines", sha256, {})


def is_own_engine(sha256: str) -> bool:
    """Whether this user built the engine of this hash on this machine."""
    return _read("engines", sha256) is not None


def check_trust(engine: Path, sha256: str, *, trusted: bool) -> None:
    """Refuse an engine whose native code nobody vouches for.

    Args:
        engine: The file.
        sha256: Hash of its content, as checked.
        trusted: The user does (``--trust-engine``).

    Raises:
        EngineMismatchError: It was not built by this user on this machine, and is not vouched for.
    """
    if trusted or is_own_engine(sha256):
        return
    raise EngineMismatchError(
        f"{engine} was not built here, and loading an engine runs the native code of whoever did",
        hint="build it again on this machine (resnet-edge build), or, if you know where it comes "
        "from, pass --trust-engine",
    )


def remember_path(kind: Literal["checkpoints", "images"], sha256: str, path: Path) -> None:
    """Record where something lies that a bundle only names."""
    _write(kind, sha256, {"path": str(path.resolve())})


def find_path(kind: Literal["checkpoints", "images"], sha256: str) -> Path | None:
    """Return where something lies that a bundle only names; None if it was never here."""
    found = _read(kind, sha256)
    path = None if found is None else Path(str(found.get("path", "")))
    return path if path is not None and path.is_absolute() and path.exists() else None


def _write(kind: Kind, sha256: str, value: Mapping[str, Any]) -> None:
    folder = _folder()
    try:
        (folder / kind).mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # parents are made as the umask says
        write_json(_file(kind, sha256), dict(value))
        _file(kind, sha256).chmod(0o600)
    except (BundleError, OSError) as error:
        log.warning("%s cannot be written, so this is not remembered: %s", folder, error)


def _read(kind: Kind, sha256: str) -> dict[str, Any] | None:
    """Return a record, unless somebody else could have written it."""
    file = _file(kind, sha256)
    try:
        for path in (file, file.parent, _folder()):
            status = path.stat(follow_symlinks=False)
            if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
        value = read_json(file)
    except (BundleError, OSError):
        return None
    return value if isinstance(value, dict) else None


def _file(kind: Kind, sha256: str) -> Path:
    if not _HASH.fullmatch(sha256):
        raise BundleError(f"{sha256!r} is not a SHA-256")
    return _folder() / kind / f"{sha256}.json"


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state else Path.home() / ".local" / "state") / "resnet-edge"
