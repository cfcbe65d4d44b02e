"""One contender in a process of its own: ``python -m resnet_edge.bench.worker SPEC``.

Reads commands on stdin, one JSON object a line, and answers each with one line on stdout:
``{"warm_up_s": …}`` settles the session, ``{"seconds": …, "count": …}`` measures a block and
returns the latency of every call in milliseconds, and its parts where the runtime knows them. A
session that times itself warms up in every block: trtexec is a new process each time, and a GPU
slows down while others are measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.base import SelfTimed, Session, Timings
from resnet_edge.backends.loading import open_engine
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.pytorch import TorchSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.reference import Golden
from resnet_edge.bundle.sidecar import sidecar_path
from resnet_edge.export.stage import reload_model

__all__: list[str] = []

_SETTLED = 0.03  # relative change of the median between two windows
_WINDOW = 10


def main() -> None:
    """Serve commands until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    spec = json.loads(sys.argv[1])
    bundle = Bundle.open(Path(spec["bundle"]))
    session = _open(bundle, spec)
    feed = {session.inputs[0].name: _batch(bundle, int(spec["batch"]))}
    answers.write(json.dumps({"ready": True}) + "\n")
    warm_up = 0.0
    for line in sys.stdin:
        command = json.loads(line)
        if "warm_up_s" in command:
            warm_up = float(command["warm_up_s"])
            calls = 0 if isinstance(session, SelfTimed) else _warm_up(session, feed, warm_up)
            answers.write(json.dumps({"calls": calls}) + "\n")
            continue
        seconds, count = float(command["seconds"]), int(command["count"])
        if isinstance(session, SelfTimed):
            block = session.measure(feed, warm_up=warm_up, seconds=seconds, count=count)
        else:
            block = Timings(tuple(_measure(session, feed, seconds, count)))
        answers.write(json.dumps({"ms": block.total, "parts_ms": dict(block.parts)}) + "\n")


def _open(bundle: Bundle, spec: Mapping[str, Any]) -> Session:
    if spec["backend"] == "pytorch":
        model = reload_model(bundle, Path(spec["file"]))
        return TorchSession(model, bundle.model.image_spec)
    engine = Path(spec["file"])
    if sidecar_path(engine).is_file():
        return open_engine(engine, trusted=bool(spec["trusted"]))
    return OnnxRuntimeSession(engine)


def _batch(bundle: Bundle, size: int) -> NDArray[Any]:
    """Return a batch of the bundle's golden images, repeated as often as needed."""
    pixels = Golden.load(bundle).pixels
    return bundle.model.image_spec.to_input(pixels[np.arange(size) % len(pixels)])


def _warm_up(session: Session, feed: Mapping[str, NDArray[Any]], at_least: float) -> int:
    """Run until the median of a window of calls stands still, at least ``at_least`` seconds."""
    started, previous, calls = time.perf_counter(), 0.0, 0
    while True:
        window = sorted(_measure(session, feed, 0.0, _WINDOW))
        calls += _WINDOW
        median = window[_WINDOW // 2]
        elapsed = time.perf_counter() - started
        settled = abs(median - previous) <= _SETTLED * median
        if elapsed >= at_least and (settled or elapsed >= 10 * at_least):
            return calls
        previous = median


def _measure(
    session: Session, feed: Mapping[str, NDArray[Any]], seconds: float, count: int
) -> list[float]:
    """Call until both the duration and the count are reached; return milliseconds per call."""
    latencies: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds
    while len(latencies) < count or clock() < end:
        started = clock()
        session.run(feed)
        latencies.append(1000 * (clock() - started))
    return latencies


if __name__ == "__main__":
    main()
