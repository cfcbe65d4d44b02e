"""What of NVIDIA's software lies on this machine, whether or not Python can see it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_edge.device.dpkg import installed_packages
from resnet_edge.device.versions import from_integer

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Bindings",
    "Trtexec",
    "cuda_runtimes",
    "find_bindings",
    "find_nvcc",
    "find_trtexec",
    "tensorrt_packages",
]

_TRTEXEC = ("usr/src/tensorrt/bin/trtexec", "usr/local/tensorrt/bin/trtexec")
_SYSTEM_PATHS = (
    "usr/lib/python3*/dist-packages/tensorrt",
    "usr/local/lib/python3*/dist-packages/tensorrt",
)
_MAJORS = (13, 12, 11)


@dataclass(frozen=True)
class Bindings:
    """TensorRT's Python package, somewhere on this machine.

    Attributes:
        folder: Where it lies.
        python: Version it was compiled for, for example ``3.10``; None where that is not visible.
        visible: Whether this interpreter imports from there.
    """

    folder: str
    python: str | None
    visible: bool


@dataclass(frozen=True)
class Trtexec:
    """NVIDIA's command-line builder.

    Attributes:
        path: The program.
        version: Of its TensorRT; None where it does not say.
    """

    path: str
    version: str | None


def find_bindings(
    root: Path = Path("/"), path: Iterable[str] | None = None
) -> tuple[Bindings, ...]:
    """Return every TensorRT package in the system folders and on the import path.

    Args:
        root: Where the system folders are.
        path: Folders that Python imports from; None for those of this interpreter.
    """
    visible = [Path(p or ".") / "tensorrt" for p in (sys.path if path is None else path)]
    hidden = [f for pattern in _SYSTEM_PATHS for f in sorted(root.glob(pattern))]
    found: dict[Path, Bindings] = {}
    for folder in (*visible, *hidden):
        if (folder / "__init__.py").is_file():
            key = folder.resolve()
            found.setdefault(key, Bindings(str(folder), _compiled_for(folder), folder in visible))
    return tuple(found.values())


def _compiled_for(folder: Path) -> str | None:
    for library in folder.glob("tensorrt*.so"):
        tag = re.search(r"cpython-3(\d+)", library.name)
        if tag:
            return f"3.{tag.group(1)}"
    return None


def find_trtexec(root: Path = Path("/")) -> Trtexec | None:
    """Return the ``trtexec`` on PATH, else the one that NVIDIA's packages install."""
    on_path = [shutil.which("trtexec")] if root == Path("/") else []
    for path in (*on_path, *(str(root / place) for place in _TRTEXEC)):
        if path and os.access(path, os.X_OK):
            return Trtexec(path, _trtexec_version(path))
    return None


def _trtexec_version(path: str) -> str | None:
    """Read the version out of the banner, ``[TensorRT v100300]``; some print it in help only."""
    try:
        run = subprocess.run(
            [path, "--help"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    banner = re.search(r"TensorRT v(\d{4,6})\b", run.stdout + run.stderr)
    return from_integer(int(banner.group(1))) if banner else None


def find_nvcc(root: Path = Path("/")) -> str | None:
    """Return CUDA's compiler, which building pycuda needs."""
    on_path = shutil.which("nvcc") if root == Path("/") else None
    usual = root / "usr/local/cuda/bin/nvcc"
    return on_path or (str(usual) if usual.is_file() else None)


def tensorrt_packages(root: Path = Path("/")) -> dict[str, str]:
    """Return the versions of TensorRT's Debian packages."""
    names = {f"libnvinfer{major}" for major in (8, 10, 11)} | {
        "python3-libnvinfer", "libnvinfer-bin",
    }  # fmt: skip
    return installed_packages(root, names)


def cuda_runtimes() -> tuple[str, ...]:
    """Return where CUDA runtime libraries may lie: in Python packages, then in the system."""
    patterns = ("nvidia/*/lib/libcudart.so.*", "nvidia/cuda_runtime/lib/libcudart.so.*")
    packaged = [
        str(f) for p in sys.path if p for pattern in patterns for f in Path(p).glob(pattern)
    ]
    names = [f"libcudart.so.{major}" for major in _MAJORS]
    return (*dict.fromkeys(packaged), *names, "libcudart.so.11.0", "libcudart.so.10.2")
