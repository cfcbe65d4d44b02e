"""One contender of int8_latency.py in its own process, in our Python or in the peers'.

    PYTHON benchmarks/latency_worker.py torch|ort|openvino MODEL INPUT.npy

MODEL is an ONNX file, an OpenVINO IR, or for torch a bundle. Answers one line of JSON: first the
logits of the first call, then for each line on stdin: ``{"warm_up_s": …}`` runs until the median
settles, ``{"seconds": …, "count": …}`` returns the milliseconds of every call of a block.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
WINDOW, SETTLED = 10, 0.03


def open_ort(model: str, image: np.ndarray[Any, Any]) -> tuple[Call, str]:
    """Load into ONNX Runtime with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed)[0], ""


def open_openvino(model: str, image: np.ndarray[Any, Any]) -> tuple[Call, str]:
    """Load into OpenVINO with its latency hint, batch 1 fixed."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape(list(image.shape))
    compiled = core.compile_model(network, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return lambda: request.infer([image])[0], f"float layers in {precision}"


def open_torch(bundle: str, image: np.ndarray[Any, Any]) -> tuple[Call, str]:
    """Load the bundle's checkpoint into PyTorch, eager, channels last."""
    from resnet_edge.backends.pytorch import TorchSession
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.bundle.provenance import checkpoint_of
    from resnet_edge.export.stage import reload_model

    opened = Bundle.open(Path(bundle))
    model = reload_model(opened, checkpoint_of(opened) or Path(opened.model.source))
    session = TorchSession(model, opened.model.image_spec)
    return lambda: session.run({"input": image})["logits"], "eager, channels last"


def measure(call: Call, seconds: float, count: int) -> list[float]:
    """Call until both the duration and the count are reached."""
    values: list[float] = []
    end = time.perf_counter() + seconds
    while len(values) < count or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        values.append(1000 * (time.perf_counter() - started))
    return values


def warm_up(call: Call, at_least: float) -> int:
    """Run until the median of ten calls stands still; return the number of calls."""
    began, previous, calls = time.perf_counter(), 0.0, 0
    while True:
        median = sorted(measure(call, 0, WINDOW))[WINDOW // 2]
        calls += WINDOW
        elapsed = time.perf_counter() - began
        settled = abs(median - previous) <= SETTLED * median
        if elapsed >= at_least and (settled or elapsed >= 10 * at_least):
            return calls
        previous = median


def main() -> None:
    """Serve commands until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    kind, model, data = sys.argv[1:4]
    opener = {"ort": open_ort, "openvino": open_openvino, "torch": open_torch}[kind]
    call, remark = opener(model, np.load(data))
    logits = np.asarray(call()).ravel().tolist()
    answers.write(json.dumps({"logits": logits, "remark": remark}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        if "warm_up_s" in command:
            answer: dict[str, Any] = {"calls": warm_up(call, command["warm_up_s"])}
        else:
            answer = {"ms": measure(call, command["seconds"], command["count"])}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
