"""Batch-1 CPU latency of INT8 models: ours, ONNX Runtime's own quantizer, OpenVINO with NNCF."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from common import (
    CACHE,
    PEER_PYTHON,
    imagenet_bundle,
    network_inputs,
    photos,
    run_peer,
    write_report,
)

from resnet_edge.arrays import ArrayImages
from resnet_edge.build import BuildConfig, build
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.data import open_images
from resnet_edge.recipes import load_recipe
from resnet_edge.targets import load_target

ROUNDS, SECONDS = 6, 2.0
NOTES = (
    "Random weights, batch 1, 224 x 224. Every contender is a process of its own; they take turns "
    "in the order A B B A, six blocks of two seconds each. p50 over all calls."
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        medians = measure(contenders(network))
        for label, p50 in medians.items():
            ratios = [
                f"{medians[base] / p50:.2f}" if base in medians else "–"
                for base in ("ONNX Runtime FP32", "OpenVINO + NNCF INT8")
            ]
            rows.append([network, label, f"{p50:.2f}", *ratios])
    headings = ("network", "model", "p50 ms", "speed-up over ORT FP32", "over OpenVINO INT8")
    write_report("CPU latency of INT8 models", headings, rows, NOTES, options.markdown)


def contenders(network: str) -> dict[str, list[str]]:
    """Make every model and return the command of each contender."""
    bundle = imagenet_bundle(network)
    images = photos(64)
    source = open_images(images)
    assert isinstance(source, ArrayImages)
    calibrate(bundle, source, load_recipe("mse"))
    ours = build(bundle, load_target("cpu"), BuildConfig("int8")).engine
    pixels, spec = np.load(images), bundle.model.image_spec
    inputs = network_inputs(pixels, spec, CACHE / "inputs-64.npy")
    one = network_inputs(pixels[:1], spec, CACHE / "inputs-1.npy")
    model, worker = bundle.file("model.onnx"), "benchmarks/latency_worker.py"
    found = {
        "ONNX Runtime FP32": [sys.executable, worker, "ort", str(model), str(one)],
        "ours, CPU twin INT8": [sys.executable, worker, "ort", str(ours), str(one)],
    }
    for label, tool, kind in (
        ("ONNX Runtime quantize_static", "ort-default", "ort"),
        ("ONNX Runtime, symmetric S8S8", "ort-minmax", "ort"),
        ("OpenVINO + NNCF INT8", "nncf", "openvino"),
    ):
        out = CACHE / f"{tool}-{network}.onnx"
        result = run_peer(tool, model, inputs, out)
        if "error" in result:
            print(f"{label}: {result['error']}")
            continue
        python = str(PEER_PYTHON) if kind == "openvino" else sys.executable
        found[label] = [python, worker, kind, str(out), str(one)]
    return found


def measure(commands: dict[str, list[str]]) -> dict[str, float]:
    """Run the contenders in turns and return each one's median in milliseconds."""
    samples: dict[str, list[float]] = {label: [] for label in commands}
    with ExitStack() as stack:
        processes = {}
        for label, command in commands.items():
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            processes[label] = process
        for turn in range(ROUNDS):
            order = list(processes.items())
            for label, process in reversed(order) if turn % 2 else order:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{SECONDS}\n")
                process.stdin.flush()
                samples[label] += json.loads(process.stdout.readline())
    return {label: statistics.median(values) for label, values in samples.items()}


if __name__ == "__main__":
    main()
