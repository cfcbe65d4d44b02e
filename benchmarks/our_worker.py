"""Run by our Python: calibrate a bundle once, alone in a process, and say what it took.

    .venv/bin/python benchmarks/our_worker.py JOB       (JSON, see `main`)

The counterpart of `peer_worker`: the same images, the same clock, a quantized graph at the end.
Nothing is cached: the stage, which would skip what is fresh, is not used.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # noqa: F401  (timed as an import, as for the peers)
from peer_worker import peak_mb, since_start

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.ranges_table import Ranges
from resnet_edge.calibrate.auto import SAFE, bake_off, ranges_of, split
from resnet_edge.calibrate.collect import collect
from resnet_edge.calibrate.stage import CHOOSE
from resnet_edge.graph.onnx_model import load_graph, save_graph
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.spec import ImageSpec
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import engine_graph

PERCENT = 99.99
Calibrated = tuple[onnx.ModelProto, Ranges]


def engine(model: onnx.ModelProto, images: ArrayImages, spec: ImageSpec) -> Calibrated:
    """Collect the TensorRT graph's points; estimate with all five estimators."""
    points = place(model.graph).engine_points
    collected = collect(model, points, images, spec, indices=range(len(images)))
    return model, ranges_of(collected.histograms, PERCENT)[SAFE]


def every(model: onnx.ModelProto, images: ArrayImages, spec: ImageSpec) -> Calibrated:
    """Do what the recipe mse does: the points of the TensorRT graph and of the CPU twin."""
    points = place(model.graph).tensors
    collected = collect(model, points, images, spec, indices=range(len(images)))
    return model, ranges_of(collected.histograms, PERCENT)[SAFE]


def auto(model: onnx.ModelProto, images: ArrayImages, spec: ImageSpec) -> Calibrated:
    """Do what the recipe auto does, keeping some of the images to choose on."""
    keys = [images.key(i) for i in range(len(images))]
    calibrate_on, choose_on = split(keys, len(images), CHOOSE)
    found = bake_off(model, images, spec, calibrate_on=calibrate_on, choose_on=choose_on)
    return found.model, found.ranges


def forward(model: onnx.ModelProto, images: ArrayImages, spec: ImageSpec) -> None:
    """Only run the float model, in batches of 8: what no calibration can be faster than."""
    with OnnxRuntimeSession(model) as session:
        name = session.inputs[0].name
        for start in range(0, len(images), 8):
            session.run({name: spec.to_input(images.pixels[start : start + 8])})


TOOLS: dict[str, Callable[[onnx.ModelProto, ArrayImages, ImageSpec], Calibrated | None]] = {
    "engine": engine,
    "every": every,
    "auto": auto,
    "forward": forward,
}


def main() -> None:
    """Do one job: ``tool``, ``bundle``, ``data`` (uint8 .npy), ``count``, ``out``."""
    job = json.loads(sys.argv[1])
    imported, imported_mb, began = since_start(), peak_mb(), time.perf_counter()
    data, bundle = Path(job["data"]), Bundle.open(Path(job["bundle"]))
    images = ArrayImages(data, np.load(data, mmap_mode="r")[: job["count"]])
    model, spec = load_graph(bundle.artifact("model.onnx")), bundle.model.image_spec
    calibrating = time.perf_counter()
    found = TOOLS[job["tool"]](model, images, spec)
    calibrated = time.perf_counter() - calibrating
    if found is not None:
        placement = place(found[0].graph)
        graph = engine_graph(found[0], placement, found[1], weights="float")
        save_graph(graph, Path(job["out"]))
    result = {
        "seconds": time.perf_counter() - began, "calibrate_seconds": calibrated,
        "peak_mb": peak_mb(), "import_seconds": imported, "import_mb": imported_mb,
    }  # fmt: skip
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
