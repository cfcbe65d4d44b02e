"""Run by our Python: calibrate once, alone in a process, and report time and memory.

python benchmarks/our_worker.py engine|every|auto BUNDLE IMAGES.npy
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from resnet_edge import __version__
from resnet_edge.arrays import ArrayImages
from resnet_edge.bundle import Bundle
from resnet_edge.calibrate.auto import bake_off, split, tables_of
from resnet_edge.calibrate.collect import collect
from resnet_edge.data import open_images
from resnet_edge.graph import load_graph
from resnet_edge.quantize.placement import place


def main() -> None:
    """Measure."""
    import onnxruntime  # imports are not counted, as for the peers

    what, bundle, source = (
        sys.argv[1],
        Bundle.open(Path(sys.argv[2])),
        open_images(Path(sys.argv[3])),
    )
    assert isinstance(source, ArrayImages)
    model, spec = load_graph(bundle.artifact("model.onnx")), bundle.model.image_spec
    placement = place(model.graph)
    started = time.perf_counter()
    if what == "auto":
        calibrate_on, choose_on = split(
            [source.key(i) for i in range(len(source))], len(source), 32
        )
        bake_off(model, source, spec, calibrate_on=calibrate_on, choose_on=choose_on)
    else:
        points = placement.engine_points if what == "engine" else placement.tensors
        collected = collect(model, points, source, spec, indices=range(len(source)))
        tables_of(collected.histograms, 99.99)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    versions = {"resnet-edge": __version__, "onnxruntime": onnxruntime.__version__}
    print("RESULT " + json.dumps({"seconds": seconds, "peak_mb": peak, "versions": versions}))


if __name__ == "__main__":
    main()
