"""Declarative data by name: TOML files that users list, copy and extend."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar

from resnet_edge.catalog.shipped import search_path
from resnet_edge.errors import ConfigError
from resnet_edge.files import write_bytes
from resnet_edge.schema import decode

__all__ = ["copy_entry", "list_entries", "load_entry", "read_toml"]

T = TypeVar("T")


def load_entry(kind: type[T], folder: str, name: str) -> T:
    """Load a shipped or user-made entry by name, or any TOML file by path.

    Args:
        kind: Dataclass whose fields are the allowed keys; ``name`` comes from the file name.
        folder: For example ``calibration/recipes``.
        name: File name without ``.toml``, or a path that ends in it.

    Raises:
        ConfigError: It does not exist or breaks the schema.
    """
    if name.endswith(".toml"):
        return _read(kind, Path(name))
    files = _files(folder)
    if name not in files:
        raise ConfigError(
            f"no {kind.__name__.lower()} named {name!r}",
            hint=f"choose one of {', '.join(sorted(files))}, or pass the path of a .toml file",
        )
    return _read(kind, files[name])


def list_entries(kind: type[T], folder: str) -> tuple[T, ...]:
    """Load every entry that can be found, the user's own winning over ours of the same name."""
    return tuple(_read(kind, path) for _, path in sorted(_files(folder).items()))


def copy_entry(folder: str, name: str, to: str) -> Path:
    """Copy an entry with its comments, to be adapted; an existing file is not overwritten.

    Args:
        folder: For example ``engines/targets``.
        name: Name or path of the entry.
        to: Name of the copy, which comes to lie in that folder of the working directory, or a path
            that ends in ``.toml``.

    Returns:
        The file.

    Raises:
        ConfigError: The entry does not exist, or the copy does already.
    """
    source = Path(name) if name.endswith(".toml") else _files(folder).get(name)
    if source is None or not source.is_file():
        raise ConfigError(f"no such entry: {name}", hint=f"look into {folder}")
    is_path = to.endswith(".toml")
    if not re.fullmatch(r"\w[\w.-]*", Path(to).stem if is_path else to):
        raise ConfigError(f"{to!r} is no name", hint="use letters, digits, dots and dashes")
    destination = Path(to) if is_path else Path(folder) / f"{to}.toml"
    if destination.exists():
        raise ConfigError(f"{destination} exists already", hint="choose another name")
    write_bytes(destination, source.read_bytes())
    return destination


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It is missing or malformed.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _files(folder: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in search_path(folder):
        for path in place.glob("*.toml"):
            found.setdefault(path.stem, path)
    return found


def _read(kind: type[T], path: Path) -> T:
    return decode(kind, read_toml(path), str(path), name=path.stem)
