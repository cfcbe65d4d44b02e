"""Calibration time and peak memory on ResNet-50 at 224, beside ModelOpt, ONNX Runtime and NNCF."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import CACHE, imagenet_bundle, network_inputs, photos, run_child, run_peer, write_report

OURS = {
    "ours, five estimators, engine points": "engine",
    "ours, five estimators, engine and CPU points": "every",
    "ours, recipe auto": "auto",
}
PEERS = ("modelopt-entropy", "modelopt-max", "ort-minmax", "ort-entropy", "ort-percentile", "nncf")
NOTES = (
    "ResNet-50 with random weights, the same images for all, decoded; imports are not counted, "
    "writing the quantized model is (peers only). Ours normalises from uint8, the peers read "
    "float32. Every run is alone in a process. Peak is the resident memory of the whole process."
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    bundle = imagenet_bundle("resnet50")
    rows = []
    for count in options.images:
        images = photos(count)
        inputs = network_inputs(
            np.load(images), bundle.model.image_spec, CACHE / f"inputs-{count}.npy"
        )
        first = None
        for label, what in OURS.items():
            result = run_child(
                [sys.executable, "benchmarks/our_worker.py", what, str(bundle.path), str(images)]
            )
            first = first or result.get("seconds")
            rows.append([str(count), label, *cells(result, first)])
        for tool in options.peers:
            result = run_peer(tool, bundle.file("model.onnx"), inputs, CACHE / f"{tool}.onnx")
            rows.append([str(count), tool, *cells(result, first)])
    headings = ("images", "tool", "seconds", "peak MB", "time / ours")
    write_report("Calibration, ResNet-50 @224", headings, rows, NOTES, options.markdown)


def cells(result: dict[str, float], first: float | None) -> list[str]:
    """Format one measurement, or say why there is none."""
    if "error" in result or first is None:
        return [str(result.get("error")), "–", "–"]
    seconds = result["seconds"]
    return [f"{seconds:.1f}", f"{result['peak_mb']:,.0f}", f"{seconds / first:.2f}"]


if __name__ == "__main__":
    main()
