"""Files that are either old or new, never half: atomic, durable writes and content hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "atomic_path",
    "cache_folder",
    "read_json",
    "sha256_file",
    "sha256_json",
    "write_bytes",
    "write_json",
]

_SAME_TIME_STAMP_NS = 2_000_000_000  # the coarsest time stamps of file systems, FAT's


@contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yield a temporary path in the destination's folder; rename it into place on success.

    The temporary file keeps the destination's suffixes, since some writers look at them. Whatever
    goes wrong, the destination keeps its old content, and the temporary file and the folders made
    for it are removed.

    Raises:
        BundleError: The disk is full or the folder cannot be written.
    """
    made = [p for p in destination.parents if not p.exists()]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=destination.parent, prefix=".tmp-", suffix=f"-{destination.name}"
        )
        os.close(handle)
    except OSError as error:
        _remove_empty(made)
        raise _write_error(destination, error) from error
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(destination)
        _sync(destination.parent)  # the rename lives in the folder
    except OSError as error:
        raise _write_error(destination, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        _remove_empty(made)


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders, innermost first, that hold nothing."""
    for folder in folders:
        with suppress(OSError):  # not there, or not empty after all
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_error(destination: Path, error: OSError) -> BundleError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some disk space and run the same command again; nothing was lost"
    else:
        hint = "choose another output with -o"
    return BundleError(
        f"cannot write {destination}: {error.strerror or str(error) or 'write failed'}", hint=hint
    )


def cache_folder() -> Path:
    """Return this user's folder for what may be lost: ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet-edge"


def write_bytes(destination: Path, data: bytes) -> None:
    """Write ``data`` atomically."""
    with atomic_path(destination) as temporary:
        temporary.write_bytes(data)


def write_json(destination: Path, value: Any) -> None:
    """Write ``value`` atomically as readable JSON."""
    write_bytes(destination, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        BundleError: The file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} does not exist") from error
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(
            f"{path} is not readable JSON: {error}", hint="run the command that made it again"
        ) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    A process reads a file once, as long as the file system says that nothing touched it. Files
    changed a moment ago are read every time: the next change might get the same time stamp.
    """
    stat = path.stat()
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < _SAME_TIME_STAMP_NS:
        return _read_sha256(path)
    return _known_sha256(
        path.absolute(), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    )


@lru_cache(maxsize=64)
def _known_sha256(path: Path, *_: int) -> str:
    return _read_sha256(path)


def _read_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
