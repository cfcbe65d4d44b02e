"""Calibration time and peak memory on ResNet-50 at 224, beside ModelOpt, ONNX Runtime and NNCF."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import Report, parser, photos, random_bundle, start
from peers import HERE, LIMIT_GB, Peers, note_busy, run_child, take_turns

from resnet_edge.bundle.bundle import Bundle

OURS = {
    "forward pass only": "forward",
    "ours, five estimators, engine points": "engine",
    "ours, five estimators, engine and CPU points": "every",
    "ours, recipe auto": "auto",
}
BASE = "ours, five estimators, engine points"
PEERS = (
    "modelopt-entropy", "modelopt-max", "ort-minmax", "ort-entropy", "ort-entropy-4096",
    "ort-percentile", "nncf-minmax-onnx", "nncf-minmax-openvino",
)  # fmt: skip
SLOW = ("ort-entropy-4096",)  # two minutes for 64 images, not in a quick run
PROTOCOL = (
    "ResNet-50 with random weights. All tools read the same decoded images (uint8 .npy), so "
    "decoding is not included and normalising is. *Seconds* is from the float ONNX file to the "
    "quantized one; *calibrating* leaves reading, placing and writing the graph out, where the "
    "tool lets them be told apart. Imports are not in either; they are in *peak*, which is the "
    "resident memory of the whole process (VmHWM), and shown apart. Every run is alone in a "
    "process; the tools take turns in the order A B B A, in {rounds} round(s), a run of more than "
    "{repeat:.0f} s only once; medians (least–most). A process that passes {limit:.0f} GB is "
    "killed. Peers run batches of {batch}: faster than 1, with more memory. auto keeps up to 64 of "
    "the images to choose on. ort-entropy has ONNX Runtime's default of 128 bins, which makes it "
    "min-max; nncf-minmax is without bias correction."
)
PEAK_BAR_MB = 1500
# what is divided by what, and the bar it has to meet
BARS = (
    ("modelopt-entropy", BASE, 3.0),
    ("modelopt-entropy", "ours, five estimators, engine and CPU points", 2.5),
    ("nncf-minmax-onnx", BASE, 1.0),
    ("nncf-minmax-openvino", BASE, 1.0),
    ("ours, recipe auto", "ours, five estimators, engine and CPU points", None),
)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, nargs="+", help="default 64 256 1024; quick: 64")
    arguments.add_argument("--peers", nargs="*", choices=PEERS, help="default all, see --quick")
    arguments.add_argument("--batch", type=int, default=8, help="of the peers (default 8)")
    arguments.add_argument("--rounds", type=int, help="default 2; quick: 1")
    arguments.add_argument(
        "--repeat-limit", type=float, default=180, metavar="S",
        help="do not repeat a run that took longer (default 180)",
    )  # fmt: skip
    arguments.add_argument("--limit-gb", type=float, default=LIMIT_GB, help="default %(default)s")
    options = arguments.parse_args()
    counts = options.images or ([64] if options.quick else [64, 256, 1024])
    rounds = options.rounds or (1 if options.quick else 2)
    machine, peers = start(), Peers.find(options.peer_python, options.limit_gb)
    wanted = [tool for tool in PEERS if not options.quick or tool not in SLOW]
    tools, missing = peers.available(wanted if options.peers is None else options.peers)
    protocol = PROTOCOL.format(
        rounds=rounds, repeat=options.repeat_limit, limit=options.limit_gb, batch=options.batch
    )
    report = Report(
        "Calibration time and memory, ResNet-50 @224", protocol,
        ("images", "tool", "seconds", "calibrating", "peak MB", "imports MB", "time / ours",
         "memory / ours"),
        notes=missing, versions=peers.versions,
    )  # fmt: skip
    bundle = random_bundle("resnet50", options.cache)
    for count in counts:
        runs = commands(bundle, count, tools, peers, options)
        results = take_turns(runs, rounds, options.repeat_limit)
        add_rows(report, count, results)
    note_busy(report)
    report.write(options, machine)


def commands(
    bundle: Bundle, count: int, tools: Sequence[str], peers: Peers, options: argparse.Namespace
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what to call for one run of each tool."""
    data, out = photos(count, options.cache), options.cache / "calibrated"
    out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    for label, tool in OURS.items():
        job = {"tool": tool, "bundle": str(bundle.path), "data": str(data), "count": count,
               "out": str(out / f"ours-{tool}.onnx")}  # fmt: skip
        command: list[str | Path] = [sys.executable, HERE / "our_worker.py", json.dumps(job)]
        runs[label] = partial(run_child, command, options.limit_gb)
    for tool in tools:
        suffix = "xml" if tool.endswith("openvino") else "onnx"
        runs[tool] = partial(
            peers.quantize, tool, bundle.file("model.onnx"), data, bundle.model.image_spec,
            Path(out / f"{tool}.{suffix}"), count=count, batch=options.batch,
        )  # fmt: skip
    return runs


def add_rows(report: Report, count: int, results: dict[str, list[dict[str, Any]]]) -> None:
    """Put one number of images into the report: medians and ratios."""
    medians = {label: summarise(runs) for label, runs in results.items()}
    base = medians[BASE]
    for label, found in medians.items():
        report.values.append({"images": count, "tool": label, **found, "runs": results[label]})
        if "error" in found:
            report.rows.append([str(count), label, found["error"], *["–"] * 5])
            continue
        calibrating = found["calibrate_seconds"]
        report.rows.append([
            str(count), label, spread([run["seconds"] for run in results[label]]),
            "–" if calibrating is None else f"{calibrating:.1f}",
            f"{found['peak_mb']:,.0f}", f"{found['import_mb']:,.0f}",
            *("–" if "error" in base else f"{found[k] / base[k]:.2f}"
              for k in ("seconds", "peak_mb")),
        ])  # fmt: skip
    for label in list(OURS)[1:]:
        if "error" not in medians[label]:
            line = f"{count} images: {label} peaks at {medians[label]['peak_mb']:,.0f} MB"
            report.notes.append(f"{line} (bar: at most {PEAK_BAR_MB:,})")
    for over, under, bar in BARS:
        pair = medians.get(over, {}).get("seconds"), medians.get(under, {}).get("seconds")
        if pair[0] and pair[1]:
            wanted = "" if bar is None else f" (bar: at least {bar})"
            line = f"{count} images: {over} / {under} = {pair[0] / pair[1]:.2f} in time{wanted}"
            report.notes.append(line)


def spread(values: Sequence[float]) -> str:
    """Format the median of a few values, and their range if there are several."""
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f}–{max(values):.1f})"


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of a tool's runs, or its first error."""
    errors = [run for run in runs if "error" in run]
    if errors:
        return errors[0]
    keys = ("seconds", "calibrate_seconds", "peak_mb", "import_seconds", "import_mb")
    return {
        key: None if runs[0].get(key) is None else statistics.median(run[key] for run in runs)
        for key in keys
    }


if __name__ == "__main__":
    main()
