"""Put a stand-in ``trtexec`` of one version into a folder."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

_HERE = REPOSITORY / "tests" / "emulation" / "trtexec"
VERSIONS = ("8.2.1", "8.5.2", "8.6.1", "10.3.0", "10.13.3", "11.4.1")


def flags_of(version: str) -> dict[str, Any]:
    """Return what is known of a version's options, with its source."""
    value: dict[str, Any] = json.loads((_HERE / "flags" / f"{version}.json").read_text())
    return value


def listed_flags(version: str) -> set[str]:
    """Return the options that a version's help begins a line with."""
    return set(re.findall(r"--\w+", " ".join(flags_of(version)["help"])))


def install(folder: Path, version: str, fault: str = "") -> Path:
    """Write the executable and return its path.

    Args:
        folder: Where to; put it on PATH.
        version: One of `VERSIONS`.
        fault: What goes wrong, see ``standin.py``; empty for nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trtexec"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(_HERE)!r})\n"
        f"import standin\nsys.exit(standin.main({version!r}, {fault!r}, sys.argv))\n"
    )
    path.chmod(0o755)
    return path
