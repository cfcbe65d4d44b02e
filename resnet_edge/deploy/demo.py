"""The whole flow as ordinary code; every stage skips what is fresh."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_edge.bench.contenders import contenders
from resnet_edge.bench.stage import BenchConfig, BenchResult, bench
from resnet_edge.build.stage import BuildConfig, BuildResult, build
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import DEFAULT_RECIPE, load_recipe
from resnet_edge.catalog.shipped import CHECKPOINT, IMAGES, find
from resnet_edge.catalog.targets import load_target
from resnet_edge.errors import BackendUnavailableError
from resnet_edge.export.stage import export
from resnet_edge.images.opening import open_images
from resnet_edge.progress import SILENT, Progress
from resnet_edge.verify.candidate import find_candidate
from resnet_edge.verify.stage import AccuracyResult, verify

__all__ = ["DemoResult", "DemoRow", "demo"]

log = logging.getLogger(__name__)

_RTX_TARGET = "rtx-4090"


@dataclass(frozen=True)
class DemoRow:
    """One line of the demo's table; None where something was not measured.

    Attributes:
        model: Architecture.
        backend: Who runs it.
        precision: ``fp32``, ``fp16`` or ``int8``.
        size: Bytes of the file that is deployed.
        top1: Percent.
        drop_points: Loss of top-1 against PyTorch, in points.
        agreement: Same class as PyTorch, in percent.
        executed: ``engine``, ``graph`` or ``none``.
        p50_ms: Median latency at batch 1 on this machine.
        speedup: Over PyTorch, by the medians.
        outcome: Of the accuracy gate; None for the reference.
    """

    model: str
    backend: str
    precision: str
    size: int | None
    top1: float | None
    drop_points: float | None
    agreement: float | None
    executed: str
    p50_ms: float | None
    speedup: float | None
    outcome: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the stable keys of ``demo --json``."""
        value = dict(vars(self))
        value["bytes"] = value.pop("size")
        value["speedup_vs_pytorch"] = value.pop("speedup")
        return value


@dataclass(frozen=True)
class DemoResult:
    """The demo's table.

    Attributes:
        bundle: Where everything is.
        rows: PyTorch first.
        images: Number of test images.
        calibration_images: Number of calibration images.
        machine: Where the latencies were measured.
        max_drop: The gate, in points.
    """

    bundle: Bundle
    rows: tuple[DemoRow, ...]
    images: int
    calibration_images: int
    machine: dict[str, Any]
    max_drop: float

    @property
    def passed(self) -> bool:
        """Whether every engine met the gate."""
        return all(row.outcome in (None, "pass") for row in self.rows)


def demo(output: Path, *, max_drop: float = 0.5, progress: Progress = SILENT) -> DemoResult:
    """Take the shipped checkpoint through export, calibration, builds, verification and bench."""
    checkpoint = find(CHECKPOINT)
    test, images = open_images(find(f"{IMAGES}/test")), open_images(find(f"{IMAGES}/calibration"))
    exported = export(checkpoint, output, progress=progress)
    bundle = exported.bundle
    calibrated = calibrate(bundle, images, load_recipe(DEFAULT_RECIPE), progress=progress)
    built = _build_all(bundle, progress)
    checked: list[tuple[int, AccuracyResult]] = []
    float_model = find_candidate(bundle, precision="fp32", backend="onnxruntime")
    for file, candidate in [(bundle.file(MODEL), float_model)] + [
        (b.engine, find_candidate(bundle, engine=b.engine)) for b in built
    ]:
        result = verify(bundle, candidate, test, max_drop=max_drop, progress=progress)
        checked.append((file.stat().st_size, result))
    timed, machine = bench(bundle, contenders(bundle), BenchConfig(duration=2.0), progress=progress)
    return DemoResult(
        bundle=bundle,
        rows=_rows(bundle, checkpoint, checked, timed),
        images=checked[0][1].n,
        calibration_images=len(calibrated.table.images),
        machine=machine,
        max_drop=max_drop,
    )


def _build_all(bundle: Bundle, progress: Progress) -> list[BuildResult]:
    built = [build(bundle, load_target("cpu"), BuildConfig("int8"), progress=progress)]
    target = load_target(_RTX_TARGET)
    try:
        built += [
            build(bundle, target, BuildConfig(precision), progress=progress)
            for precision in ("fp32", "fp16", "int8")
        ]
    except BackendUnavailableError as error:
        log.warning("no RTX engines: %s (%s)", error.message, error.hint)
    return built


def _rows(
    bundle: Bundle,
    checkpoint: Path,
    checked: list[tuple[int, AccuracyResult]],
    timed: list[BenchResult],
) -> tuple[DemoRow, ...]:
    medians = {(r.contender.backend, r.contender.precision): r.percentile(50) for r in timed}
    baseline = medians.get(("pytorch", "fp32"))

    def row(backend: str, precision: str, **values: Any) -> DemoRow:
        p50 = medians.get((backend, precision))
        speedup = None if p50 is None or baseline is None else baseline / p50
        return DemoRow(
            bundle.model.architecture, backend, precision, p50_ms=p50, speedup=speedup, **values
        )

    reference = checked[0][1].reference
    rows = [
        row(
            "pytorch", "fp32", size=checkpoint.stat().st_size, top1=reference.top1,
            drop_points=None, agreement=None, executed="engine", outcome=None,
        )
    ]  # fmt: skip
    rows += [
        row(
            result.backend, result.precision, size=size, top1=result.candidate.top1,
            drop_points=result.drop_points, agreement=result.agreement,
            executed=result.executed, outcome=result.outcome,
        )
        for size, result in checked
    ]  # fmt: skip
    return tuple(rows)
