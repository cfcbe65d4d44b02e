"""GPU compute time of several tools' graphs, built by TensorRT on this machine, taking turns.

    python benchmarks/tensorrt_latency.py fp16=BUNDLE/model.onnx int8=OURS.onnx int8=PEERS.onnx

Each argument is a precision (``fp16``: a float graph, ``int8``: a graph with Q/DQ pairs,
``implicit``: the float graph of a calibrated bundle) and a graph. The builder may use
FP16 in all of them and has one optimization profile for the batches asked for. Ratios are of the
medians; above 1 a graph is faster than the first. Prints one JSON object at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.tensorrt.engine import LoadOptions
from resnet_edge.backends.tensorrt.session import TensorRTSession
from resnet_edge.backends.tensorrt.standard import TensorRTBackend
from resnet_edge.bundle import Bundle
from resnet_edge.calibrate.implicit import implicit_calibration
from resnet_edge.device.driver import query_driver
from resnet_edge.errors import ResnetEdgeError
from resnet_edge.progress import SILENT
from resnet_edge.targets import Target

ROUNDS, SECONDS, WARM_UP, CALLS = 5, 0.3, 0.2, 50


def main() -> int:
    """Build all, time all."""
    options = parse()
    backend, gpu = TensorRTBackend(), query_driver().gpus[0]
    target = Target("here", "", "tensorrt", gpu.compute_capability)
    low, high = min(options.batch), max(options.batch)
    result: dict[str, object] = {"gpu": gpu.name, "tensorrt": backend.version()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sessions: dict[str, TensorRTSession] = {}
        for number, (precision, graph) in enumerate(options.graphs):
            label, engine = f"{precision} {graph.parent.name}/{graph.stem}", folder / f"{number}"
            started = time.perf_counter()
            profile = (low, sorted(options.batch)[len(options.batch) // 2], high)
            try:
                built = build(backend, target, precision, graph, profile)
            except ResnetEdgeError as error:
                print(f"{label}: not built: {error.message}")
                continue
            engine.write_bytes(built)
            seconds = time.perf_counter() - started
            print(f"{label}: built in {seconds:.0f} s, {len(built) / 1e6:.1f} MB", flush=True)
            opened = backend.session(backend.load(), engine, LoadOptions(label))
            sessions[label] = stack.enter_context(opened)
        result["milliseconds"] = {batch: measure(sessions, batch) for batch in options.batch}
    print(json.dumps(result))
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("graphs", nargs="+", type=graph, metavar="PRECISION=GRAPH")
    made.add_argument("--batch", nargs="+", type=int, default=(1, 8, 32))
    return made.parse_args()


def graph(text: str) -> tuple[str, Path]:
    """Read one argument."""
    precision, _, path = text.partition("=")
    if precision not in ("fp16", "int8", "implicit") or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text}: want fp16=, int8= or implicit= and a file")
    return precision, Path(path).resolve()


def build(
    backend: TensorRTBackend, target: Target, precision: str, graph: Path,
    profile: tuple[int, int, int],
) -> bytes:  # fmt: skip
    """Build an engine."""
    if precision != "implicit":
        config = BuildConfig("fp16" if precision == "fp16" else "int8", profile=profile)
        return backend.build(graph, target, config, progress=SILENT).data
    config = BuildConfig("int8", profile=profile, implicit="ranges")
    ranges = implicit_calibration(Bundle.open(graph.parent), config, None)
    return backend.build(graph, target, config, calibration=ranges, progress=SILENT).data


def measure(sessions: dict[str, TensorRTSession], batch: int) -> dict[str, float]:
    """Return each engine's median GPU compute time, and print it beside the first one's."""
    times: dict[str, list[float]] = {label: [] for label in sessions}
    random = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for label, session in sessions.items():
            spec = session.inputs[0]
            rows = random.standard_normal((batch, *spec.shape[1:])).astype(spec.dtype)
            found = session.measure(
                {spec.name: rows}, warm_up=WARM_UP, seconds=SECONDS, count=CALLS
            )
            times[label] += found.parts["compute"]
    medians = {label: statistics.median(values) for label, values in times.items()}
    first = next(iter(medians.values()))
    print(f"batch {batch}:")
    for label, median in medians.items():
        print(f"  {median:8.4f} ms  {first / median:5.2f}x  {label}")
    return medians


if __name__ == "__main__":
    sys.exit(main())
