"""Run by our Python: calibrate once, alone in a process, and report time and memory.

python benchmarks/our_worker.py engine|every|auto BUNDLE IMAGES.npy
"""

from __future__ import annotations

import json
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


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB.

    From VmHWM: ru_maxrss starts at the memory of the process that forked this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


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
    versions = {"resnet-edge": __version__, "onnxruntime": onnxruntime.__version__}
    print("RESULT " + json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "versions": versions}))


if __name__ == "__main__":
    main()
