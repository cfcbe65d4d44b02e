"""Debian packages: JetPack, TensorRT and CUDA come as such."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

__all__ = ["installed_packages"]


def installed_packages(root: Path, names: Container[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed below ``root``.

    The database is read directly: a Jetson container need not have ``dpkg-query``.
    """
    try:
        text = (root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = {}
    for paragraph in text.split("\n\n"):
        name = paragraph.partition("\n")[0].removeprefix("Package: ").strip()
        if name in names and "\nStatus: install ok installed" in paragraph:
            version = paragraph.partition("\nVersion: ")[2].partition("\n")[0]
            found[name] = version.strip()
    return found
