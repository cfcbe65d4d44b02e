"""Accuracy of each tool's INT8 model on 10,000 real images, on an ordinary and a hard ResNet-20."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from common import CACHE, network_inputs, run_peer, write_report
from outlier import outlier_checkpoint

from resnet_edge.bundle import Bundle
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.data import IdxImages, open_images
from resnet_edge.export import export
from resnet_edge.quantize.stage import quantize
from resnet_edge.recipes import load_recipe
from resnet_edge.resources import CHECKPOINT, IMAGES, find
from resnet_edge.verify.accuracy import AccuracyResult, verify
from resnet_edge.verify.candidate import Candidate

PEERS = (
    "modelopt-entropy", "modelopt-max", "ort-minmax", "ort-entropy", "ort-percentile",
    "ort-default", "nncf",
)  # fmt: skip
NOTES = (
    "Calibrated on the 1,024 shipped calibration images (ours takes 512 and 64 of them), measured "
    "on the 10,000 shipped test images against PyTorch; every model is run by ONNX Runtime exactly "
    "as written. lost / won: images only PyTorch, only the INT8 model gets right; p: McNemar's "
    "exact test. *Rescaled*: the same FP32 function, every channel multiplied by 1 to 100. "
    "`ort-entropy` is not a result of its own: with ONNX Runtime's default 128 bins and 128 "
    "levels, which `quantize_static` does not let one change, it equals `ort-minmax`."
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    rows = []
    for title, checkpoint in (
        ("ResNet-20", find(CHECKPOINT)), ("ResNet-20, rescaled", outlier_checkpoint(CACHE))
    ):  # fmt: skip
        for label, result in measure(checkpoint, options.peers):
            rows.append([title, label, *cells(result)])
    headings = ("model", "INT8 by", "top-1 %", "drop", "agreement %", "lost / won", "p")
    write_report("Accuracy on Fashion-MNIST", headings, rows, NOTES, options.markdown)


def measure(checkpoint: Path, peers: list[str]) -> list[tuple[str, AccuracyResult | str]]:
    """Quantize one network with every tool and verify each result."""
    folder = CACHE / f"accuracy-{checkpoint.stem}"
    shutil.rmtree(folder, ignore_errors=True)
    bundle = export(checkpoint, folder).bundle
    images, test = open_images(find(f"{IMAGES}/calibration")), open_images(find(f"{IMAGES}/test"))
    results: list[tuple[str, AccuracyResult | str]] = []
    for recipe in ("mse", "auto"):
        calibrate(bundle, images, load_recipe(recipe))
        results.append((f"ours, {recipe}", judge(bundle, quantize(bundle, "int8").path, test)))
    results.append(("ours, auto, CPU twin", judge(bundle, quantize(bundle, "int8-cpu").path, test)))
    inputs = calibration_inputs(bundle, images)
    for tool in peers:
        out = CACHE / f"{tool}-{checkpoint.stem}.onnx"
        made = run_peer(tool, bundle.file("model.onnx"), inputs, out)
        results.append((tool, made["error"] if "error" in made else judge(bundle, out, test)))
    return results


def calibration_inputs(bundle: Bundle, images: Any) -> Path:
    """Write the calibration images as the peers want them."""
    assert isinstance(images, IdxImages)
    return network_inputs(
        images.pixels[..., None], bundle.model.image_spec, CACHE / "fashion-calibration.npy"
    )


def judge(bundle: Bundle, graph: Path, test: Any) -> AccuracyResult:
    """Run a graph exactly as written on the test images."""
    candidate = Candidate("onnxruntime", "int8", "", graph, graph, "graph")
    return verify(bundle, candidate, test)


def cells(result: AccuracyResult | str) -> list[str]:
    """Format one result, or say why there is none."""
    if isinstance(result, str) or result.candidate.top1 is None or result.drop_points is None:
        return [str(result), "–", "–", "–", "–"]
    return [
        f"{result.candidate.top1:.2f}",
        f"{result.drop_points:+.2f}",
        f"{result.agreement:.2f}",
        f"{result.lost} / {result.won}",
        f"{result.mcnemar_p:.2g}",
    ]


if __name__ == "__main__":
    main()
