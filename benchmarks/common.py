"""What the benchmarks share: options, models and data made once, and the report."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.device.machine import describe_machine

PACKAGES = ("resnet-edge", "numpy", "onnx", "onnxruntime", "torch")
_QUIET = 0.5  # load average above which a run on this machine deserves a warning


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="little data, only to see it work")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every measured value")
    made.add_argument(
        "--markdown", type=Path, metavar="FILE",
        help="write the table as this benchmark's section of FILE; other sections stay",
    )  # fmt: skip
    made.add_argument(
        "--peer-python", type=Path, metavar="PYTHON", default=Path(".cache/peers/bin/python"),
        help="interpreter that has the peers (default %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--cache", type=Path, metavar="DIR", default=Path(".cache/bench"),
        help="models and data made once (default %(default)s); two runs at a time need one each",
    )  # fmt: skip
    return made


def random_checkpoint(name: str, cache: Path) -> Path:
    """Write a zoo network with random weights and random batch-norm parameters, once."""
    import torch

    from resnet_edge.models.zoo import create

    path = cache / f"{name}.pt"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = create(name)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.bias.normal_(0, 0.1)
                    module.weight.uniform_(0.3, 0.9)
        torch.save(model.state_dict(), path)
    return path


def random_bundle(name: str, cache: Path) -> Bundle:
    """Export a zoo network at 224 with random weights, once."""
    from resnet_edge.export.stage import export

    return export(random_checkpoint(name, cache), cache / name).bundle


def random_program(name: str, cache: Path) -> Path:
    """Write the network of `random_checkpoint` as a program any PyTorch can run, once."""
    import torch

    from resnet_edge.models.zoo import create

    path = cache / f"{name}.pt2"
    if not path.exists():
        model = create(name).eval()
        model.load_state_dict(torch.load(random_checkpoint(name, cache), weights_only=True))
        images = torch.export.Dim("images")
        example = (torch.zeros(2, 3, 224, 224),)
        program = torch.export.export(model, example, dynamic_shapes=({0: images},))
        torch.export.save(program, path)
    return path


def photos(count: int, cache: Path, size: int = 224) -> Path:
    """Return an .npy file of decoded JPEG pictures, uint8 N x size x size x 3, made once.

    The pictures are coloured noise with as much contrast in every octave as photographs have;
    the first n of any two files are the same.
    """
    path = cache / f"photos-{count}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([_photo(index, size) for index in range(count)]))
    return path


def _photo(index: int, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    rng = np.random.default_rng((0, index))
    total, side, weight = np.zeros((size, size, 3), np.float32), 2, 1.0
    while side < size:
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        octave = noise.resize((size, size), Image.Resampling.BICUBIC)
        total += weight * (np.asarray(octave, np.float32) - 127.5)
        side, weight = 2 * side, weight / 2
    total = total * rng.uniform(0.5, 1.2) + rng.uniform(80, 170)
    stream = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return np.asarray(Image.open(stream), np.uint8)


@dataclass
class Report:
    """The result of one benchmark.

    Attributes:
        title: Heading.
        protocol: How it was measured, a few sentences.
        headings: Of the table's columns.
        rows: Formatted cells.
        values: What was measured, one dictionary per row.
        notes: Lines below the table: ratios against the bars, tools that were skipped.
        versions: Of the peers; ours are added.
    """

    title: str
    protocol: str
    headings: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, options: argparse.Namespace, machine: dict[str, Any]) -> None:
        """Print the table; write the files that were asked for.

        Args:
            options: Of `parser`.
            machine: Of `start`, from before the measurements.
        """
        command = "python " + shlex.join(sys.argv)
        text = self._markdown(command, machine, quick=options.quick)
        print(text)
        if options.markdown is not None:
            _replace_section(options.markdown, Path(sys.argv[0]).stem, text)
        if options.json is not None:
            value = {
                "title": self.title, "command": command, "quick": options.quick,
                "machine": machine, "versions": self._all_versions(), "protocol": self.protocol,
                "rows": self.values, "notes": self.notes,
            }  # fmt: skip
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def _all_versions(self) -> dict[str, dict[str, str]]:
        ours = {name: importlib.metadata.version(name) for name in PACKAGES}
        return {"ours": ours, "peers": dict(self.versions)}

    def _markdown(self, command: str, machine: dict[str, Any], *, quick: bool) -> str:
        versions = self._all_versions()
        listed = ["; ".join(f"{k} {v}" for k, v in part.items()) for part in versions.values()]
        lines = [
            f"## {self.title}",
            "",
            ("**Quick run: it shows that it works, its figures mean nothing.** " if quick else "")
            + self.protocol,
            "",
            f"`{command}`",
            "",
            f"{machine['cpu']}, {machine['usable_cpus']} CPUs, {machine['memory_gb']} GB, "
            f"{machine['system']}, load {machine['load_average_1min']} at the start · "
            f"{machine['date']}",
            "",
            f"Ours: {listed[0]}. Peers: {listed[1] or 'none'}.",
            "",
            "| " + " | ".join(self.headings) + " |",
            "|" + "---|" * len(self.headings),
            *["| " + " | ".join(row) + " |" for row in self.rows],
            "",
            *[f"- {note}" for note in self.notes],
        ]
        return "\n".join(lines).rstrip() + "\n"


def start() -> dict[str, Any]:
    """Describe the machine before anything runs on it, and warn if it is busy."""
    machine: dict[str, Any] = describe_machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine |= {"memory_gb": round(memory / 1e9), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    if machine["load_average_1min"] > _QUIET:
        say(f"this machine is busy (load {machine['load_average_1min']}); timings will be noisy")
    return machine


def say(message: str) -> None:
    """Print progress where it does not mix with the table."""
    print(message, file=sys.stderr, flush=True)


def _replace_section(path: Path, name: str, text: str) -> None:
    """Put a benchmark's section into a file, in place of its earlier one or at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head = "# Measured side by side\n\nWritten by the scripts in `benchmarks/`.\n"
    old = path.read_text(encoding="utf-8") if path.exists() else head
    section = f"{begin}\n\n{text}\n{end}\n"
    before, found, rest = old.partition(begin)
    if found and end in rest:
        new = before + section.rstrip("\n") + rest.partition(end)[2]
    else:
        new = old.rstrip("\n") + "\n\n" + section
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new, encoding="utf-8")
