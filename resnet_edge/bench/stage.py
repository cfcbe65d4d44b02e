"""The bench stage: latency percentiles and throughput of several contenders, interleaved.

Every contender runs in its own process, since two runtimes in one process fight over threads. The
processes measure one after another in the order A B B A …, so that a machine that slows down or
speeds up meanwhile does so for all of them.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_edge.bench.clocks import watch_clocks
from resnet_edge.bench.contenders import Contender
from resnet_edge.bench.worker_process import Worker
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL
from resnet_edge.device.machine import describe_machine
from resnet_edge.errors import ConfigError
from resnet_edge.graph.onnx_model import fixed_batch, load_graph
from resnet_edge.progress import SILENT, Progress

__all__ = ["BenchConfig", "BenchResult", "bench"]

_ROUNDS = 4


@dataclass(frozen=True)
class BenchConfig:
    """How long to measure.

    Attributes:
        duration: Seconds of measurement per contender and batch, at least.
        iterations: Calls per contender and batch, at least.
        warm_up: Seconds of warm-up, at least; it goes on until the median settles.
        batches: Batch sizes; default 1, or the model's own where it takes no other.
    """

    duration: float = 3.0
    iterations: int = 100
    warm_up: float = 0.5
    batches: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (
            min((1,) if self.batches is None else self.batches, default=0) < 1
            or self.iterations < 1
        ):
            raise ConfigError("batch sizes and iterations must be at least 1")


@dataclass(frozen=True)
class BenchResult:
    """Latencies of one contender at one batch size.

    Attributes:
        contender: What was measured.
        batch: Images per call.
        latencies_ms: End-to-end time of every call on the host, sorted, in milliseconds.
        seconds: Their sum.
        parts_ms: The same for ``h2d``, ``compute`` and ``d2h`` where the runtime tells them apart,
            each sorted by itself; else empty.
    """

    contender: Contender
    batch: int
    latencies_ms: tuple[float, ...]
    seconds: float
    parts_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def percentile(self, percent: float, part: str | None = None) -> float:
        """Return a percentile of the latency or of a part of it, in milliseconds (nearest rank)."""
        return _percentile(self.parts_ms[part] if part else self.latencies_ms, percent)

    @property
    def throughput_ips(self) -> float:
        """Images per second, one call after another."""
        return self.batch * len(self.latencies_ms) / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return the stable keys of ``bench --json``."""
        return {
            "backend": self.contender.backend,
            "precision": self.contender.precision,
            "batch": self.batch,
            "n": len(self.latencies_ms),
            "latency_ms": _summary(self.latencies_ms),
            "parts_ms": {part: _summary(values) for part, values in self.parts_ms.items()},
            "throughput_ips": self.throughput_ips,
        }


def _percentile(ordered: Sequence[float], percent: float) -> float:
    rank = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[int(rank)]


def _summary(ordered: Sequence[float]) -> dict[str, float]:
    return {
        "mean": sum(ordered) / len(ordered),
        "min": ordered[0],
        **{f"p{p}": _percentile(ordered, p) for p in (50, 90, 95, 99)},
        "max": ordered[-1],
    }


def bench(
    bundle: Bundle,
    contenders: Sequence[Contender],
    config: BenchConfig | None = None,
    *,
    progress: Progress = SILENT,
) -> tuple[list[BenchResult], dict[str, Any]]:
    """Measure every contender at every batch size.

    Returns:
        Results, and the description of this machine with its GPU's clock meanwhile.

    Raises:
        BackendUnavailableError: A contender's process died.
        ConfigError: The model takes other batch sizes.
    """
    config = config or BenchConfig()
    batches = _batches(bundle, config.batches)
    machine = describe_machine()
    results = []
    total = len(batches) * len(contenders) * _ROUNDS
    with watch_clocks() as clocks, progress.task("bench", total=total) as task:
        for batch in batches:
            with ExitStack() as stack:
                workers = [
                    stack.enter_context(_worker(bundle.path, contender, batch))
                    for contender in contenders
                ]
                found = _interleave(workers, config, task)
            results += [
                _result(contender, batch, samples)
                for contender, samples in zip(contenders, found, strict=True)
            ]
    return results, {**machine, "gpu_clocks": clocks.to_json()}


def _batches(bundle: Bundle, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    own = fixed_batch(load_graph(bundle.artifact(MODEL)))
    if own is not None and wanted not in (None, (own,)):
        raise ConfigError(
            f"the model in {bundle.path} takes {own} images at once, no other number",
            hint=f"pass --batch {own}, or nothing",
        )
    return wanted or (own or 1,)


def _worker(bundle: Path, contender: Contender, batch: int) -> Worker:
    job = {
        "bundle": str(bundle),
        "backend": contender.backend,
        "file": str(contender.file),
        "batch": batch,
        "trusted": contender.trusted,
    }
    command = [sys.executable, "-m", "resnet_edge.bench.worker", json.dumps(job)]
    return Worker(f"{contender.backend} {contender.precision}", command)


def _interleave(
    workers: Sequence[Worker], config: BenchConfig, task: Any
) -> list[Mapping[str, list[float]]]:
    """Return each worker's milliseconds by part; the whole calls have no name."""
    for worker in workers:
        worker.ask(warm_up_s=config.warm_up)
    samples: list[dict[str, list[float]]] = [defaultdict(list) for _ in workers]
    for turn in range(_ROUNDS):
        order = list(enumerate(workers))
        for position, worker in reversed(order) if turn % 2 else order:
            answer = worker.ask(
                seconds=config.duration / _ROUNDS, count=-(-config.iterations // _ROUNDS)
            )
            for part, values in {"": answer["ms"], **answer["parts_ms"]}.items():
                samples[position][part] += values
            task.advance(status=worker.label)
    return list(samples)


def _result(
    contender: Contender, batch: int, samples: Mapping[str, Sequence[float]]
) -> BenchResult:
    parts = {part: tuple(sorted(values)) for part, values in samples.items()}
    total = parts.pop("")
    return BenchResult(contender, batch, total, sum(total) / 1000, parts)
