"""The benchmarks start: every script can be imported, every worker named in a string is there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, require

BENCHMARKS = REPOSITORY / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
SOURCES = [*BENCHMARKS.glob("*.py"), *(REPOSITORY / "resnet_edge").rglob("*.py")]
MISSING = ("ModuleNotFoundError", "ImportError", "cannot import name", "No module named")


def strings() -> set[str]:
    """Return every string in the code of the package and the benchmarks."""
    return {
        node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def start(*arguments: str) -> str:
    """Start Python in the folder of the benchmarks, without input; return what it complains of."""
    path = os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=BENCHMARKS, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr


WORKERS = sorted(text for text in strings() if re.fullmatch(r"\w+_worker\.py", text))
MODULES = sorted(text for text in strings() if re.fullmatch(r"resnet_edge\.\w+\.\w*worker", text))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_imported(script: str) -> None:
    for module in ("torch", "matplotlib"):
        require(module)
    assert start("-c", f"import {script}") == ""


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_script_named_in_the_code_starts(worker: str) -> None:
    require("torch")
    complaint = start(worker)  # without a job it cannot get far
    assert (BENCHMARKS / worker).is_file()
    assert not any(word in complaint for word in MISSING), complaint


@pytest.mark.parametrize("module", MODULES)
def test_a_worker_module_named_in_the_code_starts(module: str) -> None:
    require("onnxruntime")
    complaint = start("-m", module)
    assert "IndexError" in complaint, complaint  # it got as far as asking for its job


def test_the_names_were_found() -> None:
    assert len(WORKERS) > 3
    assert MODULES == ["resnet_edge.bench.worker"]
