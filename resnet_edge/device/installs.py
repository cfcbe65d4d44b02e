"""What of NVIDIA's software lies on this machine, whether or not Python can see it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resnet_edge.device.dpkg import installed_packages

__all__ = [
    "Bindings",
    "cuda_runtimes",
    "find_bindings",
    "find_nvcc",
    "tensorrt_packages",
]

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
