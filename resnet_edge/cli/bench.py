"""``resnet-edge bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.bench.stage import BenchResult

__all__ = ["bench"]


def bench(
    bundle: options.BundleArgument,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes, comma-separated; default 1, or what the model is fixed to."
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.0, help="Seconds of measurement each, at least.")
    ] = 3.0,
    iterations: Annotated[int, typer.Option(min=1, help="Calls each, at least.")] = 100,
    warm_up: Annotated[float, typer.Option(min=0.0, help="Seconds of warm-up, at least.")] = 0.5,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The checkpoint, if it moved since the export.")
    ] = None,
    trust_engine: options.TrustOption = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Latency and throughput of everything in the bundle that this machine can run."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.bench.contenders import contenders
    from resnet_edge.bench.stage import BenchConfig
    from resnet_edge.bench.stage import bench as run_bench

    opened = options.open_bundle(bundle, out)
    config = BenchConfig(
        duration=duration,
        iterations=iterations,
        warm_up=warm_up,
        batches=None if batch is None else tuple(int(n) for n in options.numbers(batch)),
    )
    found = contenders(opened, checkpoint, trusted=trust_engine)
    results, machine = run_bench(opened, found, config, progress=out.progress)
    notes = _about_clocks(machine)
    if opened.model.image_spec.input == "float":
        notes += _about_copies(results)
    out.result(
        {"results": [r.to_json() for r in results], "machine": machine, "notes": notes},
        lambda console: _render(console, results, machine, notes),
    )


def _about_clocks(machine: dict[str, Any]) -> list[str]:
    """Say what the GPU's clock was, and what to do where it could move or was held back."""
    board, clocks, notes = machine["jetson"], machine["gpu_clocks"], []
    if clocks is not None:
        span = dict.fromkeys((clocks["min_mhz"], clocks["max_mhz"]))
        notes.append(
            f"GPU clock {' to '.join(map(str, span))} MHz of {clocks['limit_mhz']} at most, "
            f"{clocks['samples']} samples"
        )
        if clocks["held_back"]:
            notes.append(f"the GPU was held back: {', '.join(clocks['held_back'])}")
    if board is not None:
        notes.append(f"power mode {board['power_mode'] or 'unknown'}")
        if board["clocks_locked"] is False:
            notes.append("the clocks are not locked: sudo jetson_clocks, for steady times")
    return notes


def _about_copies(results: list[BenchResult]) -> list[str]:
    """Name the engines that wait longer for float32 inputs than they compute."""
    notes = []
    for result in results:
        if not {"h2d", "compute"} <= result.parts_ms.keys():
            continue
        copy, compute = (result.percentile(50, part) for part in ("h2d", "compute"))
        if copy > compute:
            notes.append(
                f"{result.contender.precision} at batch {result.batch}: copying the inputs takes "
                f"{copy:.2f} ms, computing {compute:.2f}; "
                "export with --input uint8 to copy a quarter"
            )
    return notes


def _render(
    console: Console, results: list[BenchResult], machine: dict[str, Any], notes: list[str]
) -> None:
    from rich.table import Table

    where = ", ".join((*machine["gpus"], machine["cpu"]))
    grid = Table(
        title=f"latency in ms on {where}, {machine['usable_cpus']} CPUs, {machine['date']}"
    )
    for heading in ("backend", "precision"):
        grid.add_column(heading)
    parts = list(dict.fromkeys(part for result in results for part in result.parts_ms))
    medians = [f"{part} p50" for part in parts]
    for heading in ("batch", "calls", "p50", "p90", "p99", *medians, "images/s", "vs first"):
        grid.add_column(heading, justify="right")
    for result in results:
        first = next(r for r in results if r.batch == result.batch)
        grid.add_row(
            result.contender.backend,
            result.contender.precision,
            str(result.batch),
            str(len(result.latencies_ms)),
            *[f"{result.percentile(p):.3f}" for p in (50, 90, 99)],
            *[f"{result.percentile(50, p):.3f}" if p in result.parts_ms else "–" for p in parts],
            f"{result.throughput_ips:,.0f}",
            f"{first.percentile(50) / result.percentile(50):.2f}x",
        )
    console.print(grid)
    for note in notes:
        console.print(note)
