"""Builds and fetches what the emulated tests stand on, once, into the ignored cache.

``python -m tests.emulation.build`` does all of it ahead of the tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "MissingError",
    "cuda_libraries",
    "cuda_python",
    "cuda_python_11",
    "fetch",
    "nvinfer_libraries",
    "pycuda",
]

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache" / "emulation"
PYTHON = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
CFLAGS = ["-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden"]

PYCUDA = "pycuda==2026.1"
CUDA_HEADERS = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-profiler-api==13.0.85")
# Newer ones have left Python 3.10 behind.
CUDA_PATHFINDER = "cuda-pathfinder==1.8.3"
CUDA_PYTHON = "cuda-bindings==13.5.0" if sys.version_info >= (3, 11) else "cuda-bindings==12.9.10"


class MissingError(Exception):
    """Something cannot be fetched or built here; says what and why."""


def cuda_libraries() -> Path:
    """Return a folder with the emulated ``libcuda.so.1`` and ``libcudart.so.13``.

    On Python's path it holds the runtime once more, as a package of NVIDIA's would: a real one that
    lies there does not work with the emulated driver.
    """
    sources = [*sorted((HERE / "libcuda").iterdir()), HERE / "libcudart.c"]

    def make(folder: Path) -> None:
        _shared_library(folder / "libcuda.so.1", HERE / "libcuda" / "libcuda.c")
        _shared_library(folder / "libcudart.so.13", HERE / "libcudart.c")
        (folder / "libcuda.so").symlink_to("libcuda.so.1")  # what the linker looks for
        packaged = folder / "nvidia" / "emulated" / "lib"
        packaged.mkdir(parents=True)
        (packaged / "libcudart.so.13").symlink_to("../../../libcudart.so.13")

    return _cached(f"cuda-driver-and-runtime-{_digest(*sources)}", make)


def pycuda() -> Sequence[Path]:
    """Return the folders to put on the path for a pycuda built against the emulated driver.

    CUDA's headers are all it needs; cuRAND is left out. Nothing of it is emulated.
    """

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            source = next(fetch(PYCUDA).glob("pycuda-*"))
            tree = shutil.copytree(source, Path(temporary) / "pycuda")
            headers = [str(next(fetch(p).glob("nvidia/*/include"))) for p in CUDA_HEADERS]
            (tree / "siteconf.py").write_text(
                "CUDA_ENABLE_CURAND = False\n"
                f"CUDA_INC_DIR = {headers}\n"
                f"CUDADRV_LIB_DIR = {[str(cuda_libraries())]}\n"
                'CXXFLAGS = ["-O0", "-g0", "-w"]\n'
            )
            options = ["--no-deps", "--no-build-isolation", "--target", str(folder)]
            _run([*_PIP, "install", *options, str(tree)], "building pycuda")

    return [_cached(f"built-{PYCUDA.replace('==', '-')}-{PYTHON}", make)]


def cuda_python() -> Sequence[Path]:
    """Return the folders to put on the path for NVIDIA's own cuda-python."""
    return [fetch(CUDA_PYTHON), fetch(CUDA_PATHFINDER)]


def cuda_python_11() -> Sequence[Path]:
    """Return the folders to put on the path for the cuda-python of CUDA 11."""
    return [fetch("cuda-python==11.8.3")]


def nvinfer_libraries(major: str) -> Path:
    """Return a folder with all that TensorRT's bindings of a major version are linked to."""
    names = ["nvinfer", "nvinfer_plugin", "nvonnxparser", *(["nvparsers"] if major == "8" else [])]

    def make(folder: Path) -> None:
        for name in names:
            _shared_library(folder / f"lib{name}.so.{major}", HERE / "libnvinfer.c")

    return _cached(f"nvinfer-{major}-{_digest(HERE / 'libnvinfer.c')}", make)


def fetch(requirement: str) -> Path:
    """Return a folder with the unpacked package, whose hash stands in ``packages.txt``."""
    pinned = re.search(rf"^{re.escape(requirement)} (?:.*\\\n)*.*\n", _packages(), re.MULTILINE)
    assert pinned, f"{requirement} is not in packages.txt"

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            wanted = Path(temporary) / "requirements.txt"
            wanted.write_text(pinned[0])
            options = ["--no-deps", "--no-build-isolation", "--require-hashes", "--dest", temporary]
            network = ["--retries", "1", "--timeout", "20"]
            _run(
                [*_PIP, "download", *options, *network, "-r", str(wanted)],
                f"fetching {requirement}",
            )
            wanted.unlink()
            (package,) = Path(temporary).iterdir()
            if package.suffix == ".whl":
                with zipfile.ZipFile(package) as archive:
                    archive.extractall(folder)
            else:
                with tarfile.open(package) as archive:
                    archive.extractall(folder, filter="data")

    return _cached(f"{requirement.replace('==', '-')}-{PYTHON}", make)


def _shared_library(path: Path, source: Path, *flags: str) -> None:
    """Compile a C file to a shared library that is known by its file name."""
    command = ["gcc", *CFLAGS, *flags, f"-Wl,-soname,{path.name}", "-o", str(path), str(source)]
    _run([*command, "-lpthread", "-ldl"], f"compiling {path.name}")


_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]


def _packages() -> str:
    return (HERE / "packages.txt").read_text()


def _digest(*files: Path) -> str:
    digest = hashlib.sha256("".join(CFLAGS).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _run(command: Sequence[str], doing: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except FileNotFoundError as error:
        raise MissingError(f"{doing}: {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{doing}: not done after {error.timeout:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise MissingError(f"{doing}: {(lines or [done.stderr.strip()])[0][:300]}")


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of the cache, made by one process if it is not there yet."""
    folder = CACHE / name
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with _lock(CACHE / f"{name}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                made = Path(temporary) / "made"
                made.mkdir()
                make(made)
                made.rename(folder)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for made in (cuda_libraries(), *pycuda(), *cuda_python(), *cuda_python_11()):
        sys.stdout.write(f"{os.path.relpath(made)}\n")
