"""Python packages that can be imported here, each tried in a process of its own.

A runtime whose driver or library does not fit can take the whole interpreter down, and importing
them all costs seconds; so they are imported elsewhere, side by side.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Package", "probe_packages"]

_TIMEOUT = 120  # seconds

# What to import, and an expression for what else is worth knowing.
_PROBES = {
    "numpy": ("import numpy as m", "{}"),
    "torch": (
        "import torch as m",
        "{'cuda': m.version.cuda, 'gpus': [m.cuda.get_device_name(i) for i in"
        " range(m.cuda.device_count())] if m.cuda.is_available() else []}",
    ),
    "onnxruntime": (
        "import onnxruntime as m, onnx.parser as p; m.set_default_logger_severity(4);"
        "getattr(m, 'preload_dlls', int)();"
        'g = p.parse_model(\'<ir_version: 8, opset_import: ["": 17]>'
        " g (float[1] x) => (float[1] y) { y = Identity (x) }').SerializeToString();"
        "a = m.get_available_providers(); c = 'CUDAExecutionProvider'",
        "{'providers': a, 'cuda_works': c in a and c in"
        " m.InferenceSession(g, providers=[c]).get_providers()}",
    ),
    "tensorrt": ("import tensorrt as m", "{}"),
    "tensorrt_rtx": ("import tensorrt_rtx as m", "{}"),
    "pycuda": ("import pycuda as m, pycuda.driver", "{'version': m.VERSION_TEXT}"),
    "cuda.bindings": ("import cuda.bindings as m, cuda.bindings.runtime", "{}"),
}


@dataclass(frozen=True)
class Package:
    """A package that this interpreter finds.

    Attributes:
        version: None where it cannot be imported.
        location: Its file.
        error: Last line of what went wrong; empty if it can be imported.
        details: What else it said about itself.
    """

    version: str | None = None
    location: str = ""
    error: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def probe_packages() -> dict[str, Package]:
    """Import every package of interest that is installed; never raises."""
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", _program(statement, details)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name, (statement, details) in _PROBES.items() if _is_installed(name)
    }  # fmt: skip
    return {name: _outcome(process) for name, process in running.items()}


def _program(statement: str, details: str) -> str:
    return (
        f"import json\n{statement}\nd = dict({details})\n"
        "v = d.pop('version', None) or getattr(m, '__version__', None)\n"
        "print('\\n' + json.dumps([str(v), getattr(m, '__file__', None) or '', d]))"
    )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its parent is missing or broken
        return False


def _outcome(process: subprocess.Popen[str]) -> Package:
    with process:
        try:
            output, errors = process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            return Package(error=f"importing it takes longer than {_TIMEOUT} s")
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return Package(error=f"importing it ends the interpreter with {name}")
    try:
        version, location, details = json.loads(output.strip().splitlines()[-1])
        return Package(version, location, details=details)
    except (IndexError, ValueError):
        return Package(error=(errors.strip().splitlines() or ["it says nothing"])[-1])
