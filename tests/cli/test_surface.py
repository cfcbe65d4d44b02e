"""What scripts depend on: the options of every command, and the keys of what --json prints.

``surface.json`` is the record; ``python -m tests.cli.test_surface`` writes it anew, for a change
that is meant.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import typer

from resnet_edge.cli.app import app, run
from tests.conftest import REPOSITORY, require

RECORD = Path(__file__).with_name("surface.json")
OLD = REPOSITORY / "tests" / "bundle" / "fixtures" / "2026-11-24"
COMMANDS = {
    "inspect BUNDLE": "inspect torch",
    "inspect CHECKPOINT": "inspect tiny.safetensors",
    "inspect ONNX": "inspect torch/model.onnx",
    "inspect ENGINE": "inspect torch/engines/cpu/model.int8.onnx",
    "export CHECKPOINT": "export tiny.safetensors -o new --data few",
    "export ONNX": "export onnx/model.onnx -o imported --data few",
    "calibrate": "calibrate torch --data images",
    "calibrate --recipe mse": "calibrate new --data few --recipe mse",
    "quantize": "quantize torch",
    "quantize --max-drop": "quantize torch --data few --max-drop 20",
    "sensitivity": "sensitivity torch --data few",
    "lint": "lint torch/model.int8.onnx",
    "build": "build torch --int8 --target cpu",
    "build --print-trtexec": "build torch --target jetson-agx-orin-64gb --print-trtexec",
    "verify": "verify onnx --data few --max-drop 20",
    "verify on images calibrated on": "verify new --data few",
    "bench": "bench onnx --batch 1 --duration 0.05",
    "recipes": "recipes",
    "targets": "targets",
    "targets show": "targets show jetson-agx-orin-64gb",
    "train": "train few --arch resnet20 --epochs 1 -o run",
    "an error": "verify nothing-here",
}


def keys(value: Any) -> Any:
    """Return the keys of a JSON value, level by level; ``*`` where all entries are alike."""
    if isinstance(value, dict):
        found = {key: keys(part) for key, part in value.items()}
        alike = len(found) > 2 and all(isinstance(v, dict) and v for v in found.values())
        if alike and len({json.dumps(part) for part in found.values()}) == 1:
            return {"*": next(iter(found.values()))}
        return found
    if isinstance(value, list):
        return [keys(value[0])] if value and isinstance(value[0], dict | list) else []
    return None


def options() -> dict[str, list[str]]:
    """Return arguments and options of every command."""
    found: dict[str, list[str]] = {}

    def walk(command: Any, path: str) -> None:
        if hasattr(command, "commands"):
            for name, child in sorted(command.commands.items()):
                walk(child, f"{path} {name}".strip())
        found[path] = sorted(name for p in command.params for name in (*p.opts, *p.secondary_opts))

    walk(typer.main.get_command(app), "")
    return found


def outputs(folder: Path) -> dict[str, Any]:
    """Run every command in a folder and return exit code and keys."""
    for name in ("torch", "onnx", "few"):
        shutil.copytree(OLD / name, folder / name)
    shutil.copy(OLD / "tiny.safetensors", folder)
    (folder / "images").symlink_to(REPOSITORY / "calibration/images/fashion-mnist/calibration")
    found = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, line in COMMANDS.items():
            out = io.StringIO()
            with redirect_stdout(out), redirect_stderr(io.StringIO()):
                code = run([*line.split(), "--json"])
            found[name] = {"exit": code, "keys": keys(json.loads(out.getvalue()))}
    finally:
        os.chdir(before)
    return found


def test_no_command_has_lost_or_renamed_an_option() -> None:
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["options"]
    assert options() == recorded


def test_no_command_prints_other_keys_or_another_exit_code(tmp_path: Path) -> None:
    for module in ("torch", "onnxsim", "onnxruntime", "matplotlib"):
        require(module)
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["json"]
    assert outputs(tmp_path) == recorded


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        value = {"options": options(), "json": outputs(Path(folder))}
    RECORD.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{RECORD} written\n")
