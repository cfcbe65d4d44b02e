"""What lies on the machine is found, and packages that crash on import do no harm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from resnet_edge.device import packages
from resnet_edge.device.installs import (
    Bindings,
    cuda_runtimes,
    find_bindings,
    find_nvcc,
    tensorrt_packages,
)
from resnet_edge.device.machine import describe
from resnet_edge.device.packages import Package, probe_packages
from tests.conftest import require
from tests.device.trees import TREES, write_tree

if TYPE_CHECKING:
    from pathlib import Path


def make(path: Path, text: str = "", *, executable: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if executable:
        path.chmod(0o755)
    return path


def test_bindings_of_the_system_are_found_though_this_environment_does_not_see_them(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "usr/lib/python3.10/dist-packages/tensorrt"
    make(folder / "__init__.py")
    make(folder / "tensorrt.cpython-310-aarch64-linux-gnu.so")
    venv = tmp_path / "venv/site-packages"
    assert find_bindings(tmp_path, [str(venv)]) == (Bindings(str(folder), "3.10", visible=False),)
    make(venv / "tensorrt" / "__init__.py")
    assert [b.visible for b in find_bindings(tmp_path, [str(venv)])] == [True, False]


def test_the_same_folder_by_two_ways_is_one_installation(tmp_path: Path) -> None:
    dist = tmp_path / "usr/lib/python3/dist-packages"
    make(dist / "tensorrt" / "__init__.py")
    assert find_bindings(tmp_path, [str(dist), str(dist)]) == (
        Bindings(str(dist / "tensorrt"), None, visible=True),
    )
    (dist / "tensorrt" / "__init__.py").unlink()
    assert find_bindings(tmp_path, [str(dist)]) == ()


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    assert find_nvcc(tmp_path) is None
    nvcc = make(tmp_path / "usr/local/cuda/bin/nvcc")
    assert find_nvcc(tmp_path) == str(nvcc)
    assert tensorrt_packages(tmp_path) == {}
    write_tree(TREES["agx-orin-jp62-maxn"], tmp_path)
    assert tensorrt_packages(tmp_path) == {"libnvinfer10": "10.3.0.30-1+cuda12.5"}


def test_runtimes_of_python_packages_come_before_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = make(tmp_path / "nvidia/cu13/lib/libcudart.so.13")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert cuda_runtimes()[:2] == (str(library), "libcudart.so.13")


def test_packages_are_imported_elsewhere_and_say_their_version() -> None:
    require("onnxruntime")
    found = probe_packages()
    assert found["numpy"].version == sys.modules["numpy"].__version__
    details = found["onnxruntime"].details
    assert "CPUExecutionProvider" in details["providers"]
    assert "CUDAExecutionProvider" in details["providers"] or details["cuda_works"] is False


ONNX_RUNTIME = """
__version__ = "1.99"
def set_default_logger_severity(level): pass
def get_available_providers(): return {available}
class InferenceSession:
    def __init__(self, model, providers): assert providers == ["CUDAExecutionProvider"]
    def get_providers(self): return {used}
"""
CPU, CUDA = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("available", "used", "works"),
    [(CPU, CPU, False), (CUDA, CPU, False), (CUDA, CUDA, True)],
    ids=["no provider", "a provider that falls back", "a provider that runs"],
)
def test_cuda_works_in_onnx_runtime_where_a_session_really_uses_it(
    available: list[str],
    used: list[str],
    works: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path / "onnxruntime.py", ONNX_RUNTIME.format(available=available, used=used))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "_PROBES", {"onnxruntime": packages._PROBES["onnxruntime"]})
    found = probe_packages()["onnxruntime"]
    assert (found.version, found.error) == ("1.99", "")
    assert found.details == {"providers": available, "cuda_works": works}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            "libnvinfer.so.10",
        ),
        ("import sys; sys.exit(0)", "says nothing"),
        ("import time; time.sleep(100)", "longer than"),
    ],
)
def test_a_package_that_breaks_is_reported(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "numpy_broken.py", body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "_PROBES", {"numpy_broken": ("import numpy_broken as m", "{}")})
    monkeypatch.setattr(packages, "_TIMEOUT", 2 if "sleep" in body else 60)
    package = probe_packages()["numpy_broken"]
    assert package.version is None
    assert said in package.error


def test_a_package_that_prints_and_has_no_version_is_still_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "chatty.py", "print('hello')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "_PROBES", {"chatty": ("import chatty as m", "{'a': 1}"),
                                              "absent.child": ("", "")})  # fmt: skip
    assert probe_packages() == {
        "chatty": Package("None", str(tmp_path / "chatty.py"), details={"a": 1})
    }


def test_this_machine_can_be_described(tmp_path: Path) -> None:
    machine = describe(write_tree(TREES["thor-jp71"], tmp_path))
    assert machine.jetson is not None
    assert machine.jetson.soc == "tegra264"
    assert machine.memory.total == TREES["thor-jp71"].memory_kb * 1024
    assert machine.disk_free > 0
    assert machine.usable("numpy") is not None
    assert machine.usable("nothing") is None
