"""What the benchmarks share: models, data, peers as subprocesses, tables."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_edge.bench.machine import describe_machine
from resnet_edge.bundle import Bundle
from resnet_edge.export import export
from resnet_edge.imaging import ImageSpec
from resnet_edge.models.zoo import create

CACHE = Path(".cache/bench")
PEER_PYTHON = Path(".cache/peers/bin/python")
INSTALL = (
    "python3 -m venv .cache/peers && .cache/peers/bin/pip install -r benchmarks/peers.txt && "
    ".cache/peers/bin/pip install --no-deps nvidia-modelopt==0.47.0"
)


def imagenet_bundle(name: str) -> Bundle:
    """Export a zoo network at 224 with random weights and random batch-norm statistics, once."""
    import torch

    folder = CACHE / name
    checkpoint = CACHE / f"{name}.pt"
    if not checkpoint.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = create(name)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.bias.normal_(0, 0.1)
                    module.weight.uniform_(0.3, 0.9)
        torch.save(model.state_dict(), checkpoint)
    return export(checkpoint, folder).bundle


def photos(count: int, size: int = 224) -> Path:
    """Make smooth random colour images, uint8 N x H x W x 3, once; return the .npy file."""
    path = CACHE / f"images-{count}.npy"
    if not path.exists():
        from PIL import Image

        CACHE.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        pixels = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
                    (size, size), Image.Resampling.BICUBIC
                )
            )
            for _ in range(count)
        ]
        np.save(path, np.stack(pixels))
    return path


def network_inputs(pixels: np.ndarray[Any, Any], spec: ImageSpec, path: Path) -> Path:
    """Write preprocessed float32 inputs for the peers, once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, spec.to_input(pixels))
    return path


def run_peer(tool: str, model: Path, data: Path, out: Path, limit_gb: float = 10) -> dict[str, Any]:
    """Quantize with a peer in its own process; stop it when it passes the memory limit."""
    if not PEER_PYTHON.exists():
        return {"error": f"not installed: {INSTALL}"}
    out.parent.mkdir(parents=True, exist_ok=True)
    given = CACHE / "peer-input" / "model.onnx"  # a copy, so that no tool can change ours
    given.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, given)
    command = [PEER_PYTHON, "benchmarks/peer_worker.py", tool, given, data, out]
    return run_child([str(part) for part in command], limit_gb)


def run_child(command: Sequence[str], limit_gb: float = 10) -> dict[str, Any]:
    """Run a command that prints a RESULT line, watching its resident memory."""
    log = CACHE / "child.log"
    with log.open("w+") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            time.sleep(0.2)
            try:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            except (OSError, IndexError):
                break
            if pages * 4096 > limit_gb * 1e9:
                process.kill()
                process.wait()
                return {"error": f"stopped at {limit_gb:.0f} GB"}
        process.wait()
        stream.seek(0)
        lines = stream.read().splitlines()
    for line in lines:
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    return {"error": " / ".join(lines[-2:])[-200:] or f"exit code {process.returncode}"}


def write_report(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], notes: str, out: Path | None
) -> None:
    """Print a table as Markdown and, on request, write it with its protocol."""
    machine = describe_machine()
    lines = [
        f"## {title}",
        "",
        notes,
        "",
        f"`python {' '.join(sys.argv)}` · {machine['cpu']}, {machine['usable_cpus']} CPUs, "
        f"{machine['system']} · {machine['date']}",
        "",
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
        *["| " + " | ".join(row) + " |" for row in rows],
        "",
    ]
    print("\n".join(lines))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join(lines), encoding="utf-8")
