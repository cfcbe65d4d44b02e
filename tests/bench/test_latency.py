"""Latency measurement with real processes; no test looks at how long anything took."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_edge.bench.latency import BenchConfig, BenchResult, Contender, bench
from resnet_edge.bench.machine import describe_machine
from resnet_edge.build import BuildConfig, build
from resnet_edge.bundle import Bundle
from resnet_edge.errors import BackendUnavailableError, ConfigError
from resnet_edge.pipeline import contenders
from resnet_edge.targets import load_target

QUICK = BenchConfig(duration=0.0, iterations=12, warm_up=0.0)


def result(values: list[float], batch: int = 1) -> BenchResult:
    contender = Contender("onnxruntime", "fp32", Path("model.onnx"))
    return BenchResult(contender, batch, tuple(sorted(values)), sum(values) / 1000)


def test_percentiles_are_measured_values_by_nearest_rank() -> None:
    hundred = result([float(i) for i in range(1, 101)])
    assert [hundred.percentile(p) for p in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert result([3.0]).percentile(50) == 3.0


def test_throughput_counts_images_not_calls() -> None:
    assert result([10.0] * 5, batch=8).throughput_ips == pytest.approx(800)


def test_every_contender_is_measured_at_every_batch(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    build(bundle, load_target("cpu"), BuildConfig("int8"))
    found = contenders(bundle)
    assert [(c.backend, c.precision) for c in found] == [
        ("pytorch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"),
    ]  # fmt: skip
    config = BenchConfig(duration=0.0, iterations=12, warm_up=0.0, batches=(1, 40))
    results, machine = bench(bundle, found, config)
    assert [(r.contender, r.batch) for r in results] == [(c, b) for b in (1, 40) for c in found]
    assert all(len(r.latencies_ms) >= 12 for r in results)
    assert machine["cpu"]
    value = results[0].to_json()
    assert set(value["latency_ms"]) == {"mean", "min", "p50", "p90", "p95", "p99", "max"}
    ordered = [value["latency_ms"][k] for k in ("min", "p50", "p90", "p95", "p99", "max")]
    assert ordered == sorted(ordered)


def test_a_contender_that_dies_is_named_with_its_last_words(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    broken = bundle.path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(BackendUnavailableError, match=r"onnxruntime int8 cannot run: .*broken"):
        bench(bundle, [Contender("onnxruntime", "int8", broken)], QUICK)


def test_without_pytorchs_checkpoint_only_onnx_is_measured(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    assert [c.backend for c in contenders(bundle, Path("/nowhere.pt"))] == ["onnxruntime"]


@pytest.mark.parametrize("batches", [(), (0,), (1, -2)])
def test_impossible_batches_are_refused(batches: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        BenchConfig(batches=batches)


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["usable_cpus"] >= 1
    assert machine["date"][:2] == "20"
