"""Find ``trtexec`` and ask it what it is: its version and the options it has."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from resnet_edge.backends.trtexec.failures import explain
from resnet_edge.backends.trtexec.known_options import ALWAYS
from resnet_edge.backends.trtexec.process import run_program
from resnet_edge.device.versions import from_integer
from resnet_edge.errors import BackendUnavailableError

__all__ = [
    "PLACES",
    "Trtexec",
    "ask_trtexec",
    "find_trtexec",
    "locate_trtexec",
    "parse_help",
    "parse_version",
]

# Where JetPack and the Debian packages put it, and where the tar is often unpacked.
PLACES = ("usr/src/tensorrt/bin/trtexec", "usr/local/tensorrt/bin/trtexec")

_HELP_SECONDS = 120.0  # the first start on a Jetson reads a gigabyte of libraries


@dataclass(frozen=True)
class Trtexec:
    """An executable that was asked.

    Attributes:
        path: Where it is.
        version: Of TensorRT, for example ``8.5.2``.
        flags: Options it lists in its help.
    """

    path: Path
    version: str
    flags: frozenset[str]


def find_trtexec() -> Trtexec:
    """Return the executable on PATH, or the one where NVIDIA's packages put it.

    Raises:
        BackendUnavailableError: There is none, or it does not work.
    """
    path = locate_trtexec()
    if path is None:
        raise BackendUnavailableError(
            f"trtexec is not on PATH and not at /{PLACES[0]}",
            hint="install JetPack's or NVIDIA's TensorRT packages (the wheels have no trtexec), "
            "or add its folder to PATH",
        )
    return ask_trtexec(path)


def locate_trtexec(root: Path = Path("/")) -> Path | None:
    """Return where it is, whether or not it works.

    Args:
        root: Where NVIDIA's packages are; PATH counts only for this machine's own.
    """
    on_path = shutil.which("trtexec") if root == Path("/") else None
    if on_path is not None:
        return Path(on_path)
    return next((root / place for place in PLACES if (root / place).is_file()), None)


def ask_trtexec(path: Path) -> Trtexec:
    """Ask an executable for its version and options; once, until the file changes.

    Raises:
        BackendUnavailableError: It does not work, or is too old.
    """
    status = path.stat()
    return _ask(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _ask(path: Path, _modified: int, _size: int) -> Trtexec:
    outcome = run_program(path, ["--help"], seconds=_HELP_SECONDS)
    version, flags = parse_version(outcome.text), parse_help(outcome.text)
    if outcome.code != 0 or version is None:
        message, hint = explain(outcome)
        raise BackendUnavailableError(f"{path} does not work: {message}", hint=hint)
    if missing := sorted(ALWAYS - flags):
        raise BackendUnavailableError(
            f"{path} (TensorRT {version}) lacks {', '.join(missing)}",
            hint="TensorRT 8.2 and newer can be used",
        )
    return Trtexec(path, version, flags)


def parse_version(text: str) -> str | None:
    """Read the version from the first line that trtexec prints; None if there is none.

    ``[TensorRT v8502]`` is 8.5.2; from 10 on there are two digits for each part: v101303.
    """
    found = re.search(r"^&&&& RUNNING [^\n]*?\[TensorRT v(\d{4,6})\]", text, re.MULTILINE)
    if found is None:
        return None
    return from_integer(int(found[1]))


def parse_help(text: str) -> frozenset[str]:
    """Return the options a help text lists: they begin a line, hardly indented.

    An option named inside a description does not count.
    """
    heads = re.findall(r"^ {0,4}(--\w+(?:[^\S\n]*,[^\S\n]*--?\w+)*)", text, re.MULTILINE)
    return frozenset(flag for head in heads for flag in re.findall(r"--\w+", head))
