"""One contender in its own process; reads block lengths on stdin, answers with latencies.

PYTHON benchmarks/latency_worker.py ort|openvino MODEL INPUT.npy
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def open_ort(model: str, name_input: np.ndarray[Any, Any]) -> Callable[[], object]:
    """Load into ONNX Runtime with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: name_input}
    return lambda: session.run(None, feed)


def open_openvino(model: str, name_input: np.ndarray[Any, Any]) -> Callable[[], object]:
    """Load into OpenVINO with its latency hint."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape(list(name_input.shape))
    compiled = core.compile_model(network, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    return lambda: request.infer([name_input])


def main() -> None:
    """Serve blocks until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    kind, model, data = sys.argv[1:4]
    call = (open_ort if kind == "ort" else open_openvino)(model, np.load(data))
    for _ in range(10):
        call()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        end, values = time.perf_counter() + float(line), []
        while time.perf_counter() < end:
            started = time.perf_counter()
            call()
            values.append(1000 * (time.perf_counter() - started))
        answers.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
