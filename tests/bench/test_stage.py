"""Latency measurement with real processes; no test looks at how long anything took."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from resnet_edge.bench import stage
from resnet_edge.bench.contenders import Contender, contenders
from resnet_edge.bench.stage import BenchConfig, BenchResult, bench
from resnet_edge.build.stage import BuildConfig, build
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.catalog.targets import load_target
from resnet_edge.cli.bench import _render
from resnet_edge.device.machine import describe_machine
from resnet_edge.errors import BackendUnavailableError, ConfigError
from resnet_edge.export.stage import ExportConfig, export
from resnet_edge.images.opening import open_images
from resnet_edge.images.spec import FASHION_MNIST
from resnet_edge.verify.candidate import find_candidate
from resnet_edge.verify.stage import verify
from tests.conftest import require
from tests.emulation.device import run_on_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_edge.models.resnet import ResNet

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


def test_contenders_are_warmed_up_and_then_take_turns_there_and_back(
    exported: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Watched:
        """A contender's process that takes down what it is asked."""

        def __init__(self, label: str) -> None:
            self.label = label

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            asked.append((self.label, {}))

        def ask(self, **command: Any) -> dict[str, Any]:
            asked.append((self.label, command))
            return {"ms": [1.0], "parts_ms": {}}

    monkeypatch.setattr(stage, "_worker", lambda _, contender, __: Watched(contender.precision))
    names = ("A", "B", "C")
    three = [Contender("onnxruntime", name, Path("model.onnx")) for name in names]
    config = BenchConfig(duration=2.0, iterations=10, warm_up=0.75, batches=(1, 4))
    results, _ = bench(exported("tiny"), three, config)
    for start in (0, len(asked) // 2):
        part = asked[start : start + len(asked) // 2]
        assert part[:3] == [(name, {"warm_up_s": 0.75}) for name in names]
        blocks = part[3:-3]
        assert "".join(name for name, _ in blocks) == "ABCCBAABCCBA"
        assert all(command == {"seconds": 0.5, "count": 3} for _, command in blocks)
        assert {name for name, command in part[-3:] if not command} == set(names)
    assert [len(r.latencies_ms) for r in results] == [4] * 6


def test_a_contender_that_dies_is_named_with_its_last_words(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    broken = bundle.path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(BackendUnavailableError, match=r"onnxruntime int8 cannot run: .*broken"):
        bench(bundle, [Contender("onnxruntime", "int8", broken)], QUICK)


def test_without_pytorchs_checkpoint_only_onnx_is_measured(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    assert [c.backend for c in contenders(bundle, Path("/nowhere.pt"))] == ["onnxruntime"]


@pytest.mark.parametrize(("version", "strongly_typed"), [("8.6", None), ("11.4", True)])
def test_where_a_tensorrt_engine_spends_its_time_is_told_by_the_gpu(
    exported: Callable[[str], Bundle], tmp_path: Path, version: str, strongly_typed: bool | None
) -> None:
    def work(bundle: str, version: str, options: dict[str, Any]) -> list[Any]:
        import os
        from pathlib import Path

        from resnet_edge.bench.contenders import contenders
        from resnet_edge.bench.stage import BenchConfig, bench
        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        flow.build(precision="fp16", **options)
        install = "from tests.emulation.fake_tensorrt.module import install"
        in_workers = Path(bundle).parent / "sitecustomize.py"  # each is a process of its own
        in_workers.write_text(f"{install}; install({version!r})")
        os.environ["PYTHONPATH"] = os.pathsep.join(
            (str(in_workers.parent), os.environ["PYTHONPATH"])
        )
        found = [c for c in contenders(flow.bundle) if c.backend != "pytorch"]
        config = BenchConfig(duration=0.0, iterations=8, warm_up=0.0, batches=(8,))
        results, _ = bench(flow.bundle, found, config)
        return [r.to_json() for r in results]

    bundle = shutil.copytree(exported("tiny").path, tmp_path / "bundle")
    options = {} if strongly_typed is None else {"strongly_typed": strongly_typed}
    plain, engine = run_on_device("pycuda", work, str(bundle), version, options, tensorrt=version)
    assert (plain["backend"], plain["parts_ms"]) == ("onnxruntime", {})
    assert (engine["backend"], engine["precision"], engine["batch"]) == ("tensorrt", "fp16", 8)
    parts = engine["parts_ms"]
    assert list(parts) == ["h2d", "compute", "d2h"]
    assert all(part["min"] >= 0 for part in parts.values())
    assert 0 < parts["compute"]["p50"] < engine["latency_ms"]["p50"]
    assert sum(part["mean"] for part in parts.values()) <= engine["latency_ms"]["mean"]
    assert engine["throughput_ips"] == pytest.approx(8000 / engine["latency_ms"]["mean"])


def test_the_table_has_the_parts_of_whoever_knows_them() -> None:
    def table(*results: BenchResult) -> str:
        console = Console(file=io.StringIO(), width=200)
        machine = {"gpus": ["a GPU"], "cpu": "a CPU", "usable_cpus": 2, "date": "today"}
        _render(console, list(results), machine, ["a note"])
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    whole = result([10.0, 12.0, 14.0])
    taken_apart = replace(whole, parts_ms={"h2d": (1.5,), "compute": (7.25,), "d2h": (2.125,)})
    assert all(text in table(whole) for text in ("p50", "a GPU, a CPU", "a note"))
    assert "compute" not in table(whole)
    both = table(whole, taken_apart)
    assert all(f"{part} p50" in both for part in ("h2d", "compute", "d2h"))
    first, second = (line for line in both.splitlines() if "onnxruntime" in line)
    assert first.count("–") == 3
    assert all(median in second for median in ("1.500", "7.250", "2.125", "12.000"))


def test_a_checkpoint_that_is_a_directory_is_measured_and_the_reference(
    tiny_resnet: ResNet, shipped_images: Path, tmp_path: Path
) -> None:
    safetensors = require("safetensors.torch")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    safetensors.save_file(tiny_resnet.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    spec = replace(FASHION_MNIST, resize=8, crop=(8, 8))
    bundle = export(folder, tmp_path / "bundle", ExportConfig(image_spec=spec)).bundle
    results, _ = bench(bundle, contenders(bundle), QUICK)
    assert [r.contender.backend for r in results] == ["pytorch", "onnxruntime"]
    images = open_images(shipped_images / "test")
    images.labels = images.class_names = None  # type: ignore[misc]  # the network has two classes
    assert verify(bundle, find_candidate(bundle), images, max_drop=5).source == "pytorch"


@pytest.mark.parametrize("batches", [(), (0,), (1, -2)])
def test_impossible_batches_are_refused(batches: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        BenchConfig(batches=batches)


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["usable_cpus"] >= 1
    assert machine["date"][:2] == "20"
