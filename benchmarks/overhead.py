"""What our layer costs over the bare library below it: start, call, build, decode, whole flow."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, parser, photos, random_bundle, random_program, say, start
from peers import HERE, Peers, note_busy, run_child, take_turns

from resnet_edge.quantize.stage import quantize

TARGET, CAPABILITY = "rtx-4090", "SM89"
BARE_TYPER = """
import typer
app = typer.Typer()
@app.command()
def one(name: str, times: int = 1) -> None:
    "Do one thing."
@app.command()
def other(name: str) -> None:
    "Do another."
app()
"""
PROTOCOL = (
    "Ours and the bare thing take turns in the order A B B A, {rounds} rounds, each run in a "
    "process of its own, but for the calls, which alternate in blocks in one process. Medians "
    "(least–most); ratios of the medians. *Start*: wall clock of the process. *Call*: CPU time of "
    "one ONNX Runtime call on a ResNet-20 of 8 x 8 pixels. *Build*: the stage, its graph being "
    "there, with hashes, sidecar and manifest, against parser and builder alone. *Decode*: 256 "
    "JPEGs of 500 x 375 to normalised 224 x 224 float32 on one core. *Flow*: from the float ONNX "
    "file over {images} calibration images (recipe auto) to an INT8 engine and its agreement with "
    "the PyTorch model on as many others. "
    "Imports are not in build, decode and flow. Random weights."
)
Runs = dict[str, list[dict[str, Any]]]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, help="default 4; quick: 1")
    arguments.add_argument("--images", type=int, help="of the flow; default 256, quick: 32")
    arguments.add_argument(
        "--torchvision-python", type=Path, metavar="PYTHON",
        help="interpreter that has torchvision (default --peer-python)",
    )  # fmt: skip
    options = arguments.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has byte code
    options.rounds = options.rounds or (1 if options.quick else 4)
    options.images = options.images or (32 if options.quick else 256)
    machine, peers = start(), Peers.find(options.peer_python)
    report = Report(
        "What resnet-edge costs over the bare libraries",
        PROTOCOL.format(rounds=options.rounds, images=options.images),
        ("what", "ours", "bare", "ours / bare", "bar"),
        versions=peers.versions,
    )
    measure_start(report, options)
    measure_call(report, options)
    measure_decode(report, options)
    measure_build(report, options)
    measure_flow(report, options, peers)
    note_busy(report)
    report.write(options, machine)


def measure_start(report: Report, options: argparse.Namespace) -> None:
    """Time the start of the interpreter and of the command line."""
    python, ours = sys.executable, Path(sys.executable).with_name("resnet-edge")
    pairs: dict[str, tuple[list[str], list[str]]] = {
        "import resnet_edge / bare interpreter":
            ([python, "-c", "import resnet_edge"], [python, "-c", "pass"]),
        "--help / bare Typer program's":
            ([str(ours), "--help"], [python, "-c", BARE_TYPER, "--help"]),
    }  # fmt: skip
    for what, commands in pairs.items():
        ways = {k: partial(_wall, c) for k, c in zip(("ours", "bare"), commands, strict=True)}
        for call in ways.values():
            call()  # byte code and disk cache
        add(report, f"start: {what}", take_turns(ways, 5 * options.rounds), "seconds", "s", "≤ 1.5")


def measure_call(report: Report, options: argparse.Namespace) -> None:
    """Time the CPU cost of one call through a session."""
    from resnet_edge.catalog.shipped import CHECKPOINT, find
    from resnet_edge.export.stage import ExportConfig, export
    from resnet_edge.images.spec import ImageSpec

    spec = ImageSpec(resize=8, crop=(8, 8), mean=(0.3,), std=(0.3,), color="gray")
    bundle = export(
        find(CHECKPOINT), options.cache / "resnet20-8", ExportConfig(image_spec=spec)
    ).bundle
    job = {"task": "call", "onnx": str(bundle.artifact("model.onnx")),
           "blocks": 5 * options.rounds, "calls": 200}  # fmt: skip
    found = run_child([sys.executable, HERE / "overhead_worker.py", json.dumps(job)])
    runs: Runs = {way: [{"us": us} for us in found.get(way, ())] for way in ("ours", "bare")}
    if "error" in found:
        report.notes.append(f"call: {found['error']}")
        return
    add(report, "call: session / bare ONNX Runtime", runs, "us", "µs CPU", "+ ≤ 50 µs")
    extra = _median(runs["ours"], "us") - _median(runs["bare"], "us")
    report.notes.append(f"a call costs {extra:+.1f} µs of CPU more than a bare one (bar: 50)")


def measure_decode(report: Report, options: argparse.Namespace) -> None:
    """Time decoding and preprocessing on one core beside torchvision's transforms."""
    python = options.torchvision_python or options.peer_python
    folder = _jpegs(options.cache / "jpegs", 256)
    ways = {
        "ours": _task("decode ours", sys.executable, folder=str(folder)),
        "bare": _task("decode torchvision", python, folder=str(folder)),
    }
    runs = take_turns(ways, options.rounds)
    label = "decode: ours / torchvision"
    if add(report, label, runs, "images_per_s", "images/s", "≥ 1"):
        hashes = {run["sha256"] for way in runs.values() for run in way}
        same = "the same bits" if len(hashes) == 1 else "NOT the same bits"
        report.notes.append(f"decoding gives {same} as torchvision's transforms")


def measure_build(report: Report, options: argparse.Namespace) -> None:
    """Time the engine build beside the bare API."""
    bundle, work = random_bundle("resnet50", options.cache), options.cache / "overhead"
    graph = quantize(bundle, "fp16")
    ways = {
        "ours": _fresh(work, "build ours", sys.executable, bundle=str(bundle.path),
                       target=TARGET, precision="fp16"),
        "bare": _task("build bare", sys.executable, onnx=str(bundle.artifact(graph.name)),
                      capability=CAPABILITY, out=str(options.cache / "bare.engine")),
    }  # fmt: skip
    label = "build: ResNet-50 FP16, TensorRT-RTX / bare API"
    add(report, label, take_turns(ways, options.rounds), "seconds", "s", "≤ 1.05")


def measure_flow(report: Report, options: argparse.Namespace, peers: Peers) -> None:
    """Time the way to a verified INT8 engine beside ModelOpt and the bare builder."""
    found, missing = peers.available(["modelopt-entropy"])
    report.notes += missing
    bundle, work, n = (
        random_bundle("resnet50", options.cache),
        options.cache / "flow",
        options.images,
    )
    data = np.load(photos(2 * n, options.cache))
    calibration, test = options.cache / f"flow-calibration-{n}.npy", options.cache / f"flow-{n}.npy"
    np.save(calibration, data[:n])
    np.save(test, data[n:])
    images = {"calibration": str(calibration), "test": str(test)}
    spec = bundle.model.image_spec
    ways = {
        "ours": _fresh(work, "flow ours", sys.executable, bundle=str(bundle.path), target=TARGET,
                       **images),
    }  # fmt: skip
    if found:
        ways["bare"] = _fresh(
            work, "flow modelopt", peers.python, model=str(bundle.artifact("model.onnx")),
            program=str(random_program("resnet50", options.cache)),
            capability=CAPABILITY, mean=spec.mean, std=spec.std, **images,
        )  # fmt: skip
    runs = take_turns(ways, max(1, options.rounds // 2))
    label = f"flow: ResNet-50 INT8, {n} images / ModelOpt + bare builder"
    if add(report, label, runs, "seconds", "s", "≤ 0.5"):
        for way, name in (("ours", "ours"), ("bare", "ModelOpt + bare builder")):
            parts = {k: statistics.median(run["parts"][k] for run in runs[way])
                     for k in runs[way][0]["parts"]}  # fmt: skip
            seconds = ", ".join(f"{k} {v:.1f} s" for k, v in parts.items())
            report.notes.append(f"{name}: {seconds}; agreement {runs[way][0]['agreement']:.1f} %")


def add(report: Report, what: str, runs: Runs, key: str, unit: str, bar: str) -> bool:
    """Add a row; say whether both sides were measured."""
    report.values.append({"what": what, "runs": [run for way in runs.values() for run in way],
                          "ours": runs.get("ours"), "bare": runs.get("bare")})  # fmt: skip
    cells, whole = [], True
    for way in ("ours", "bare"):
        errors = [run["error"] for run in runs.get(way, [{"error": "not installed"}])
                  if "error" in run]  # fmt: skip
        whole = whole and not errors
        cells.append(errors[0] if errors else _spread([run[key] for run in runs[way]], unit))
    ratio = f"{_median(runs['ours'], key) / _median(runs['bare'], key):.2f}" if whole else "–"
    report.rows.append([what, *cells, ratio, bar])
    say(f"{what}: {cells[0]} / {cells[1]} = {ratio}")
    return whole


def _task(task: str, python: Path | str, **arguments: Any) -> Callable[[], dict[str, Any]]:
    job = json.dumps({"task": task, **arguments})
    return partial(run_child, [python, HERE / "overhead_worker.py", job])


def _fresh(
    work: Path, task: str, python: Path | str, **arguments: Any
) -> Callable[[], dict[str, Any]]:
    """Return a task that starts in an empty directory."""
    import shutil

    def run() -> dict[str, Any]:
        shutil.rmtree(work, ignore_errors=True)
        return _task(task, python, work=str(work), **arguments)()

    return run


def _wall(command: Sequence[str]) -> dict[str, Any]:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - began}


def _jpegs(folder: Path, count: int) -> Path:
    """Write JPEG files of 500 x 375, once."""
    from PIL import Image

    if not folder.exists():
        folder.mkdir(parents=True)
        for index, pixels in enumerate(np.load(photos(count, folder.parent))):
            picture = Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC)
            picture.save(folder / f"{index:04}.jpg", quality=90)
    return folder


def _median(runs: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _spread(values: Sequence[float], unit: str) -> str:
    digits = 3 if max(values) < 1 else 1
    low, middle, high = (f(values) for f in (min, statistics.median, max))
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f}) {unit}"


if __name__ == "__main__":
    main()
