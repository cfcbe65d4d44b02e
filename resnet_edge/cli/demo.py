"""``resnet-edge demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.cli.verify import GATE_NOT_MET

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.deploy.demo import DemoResult, DemoRow

__all__ = ["demo", "render"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the bundle goes.")] = Path(
        "engines/builds/demo"
    ),
    max_drop: options.MaxDropOption = 0.5,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """The whole flow on the shipped checkpoint and images, ending with one table."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.deploy.demo import demo as run_demo

    result = run_demo(output, max_drop=max_drop, progress=out.progress)
    out.result(
        {
            "rows": [row.to_json() for row in result.rows],
            "bundle": str(result.bundle.path),
            "images": result.images,
            "calibration_images": result.calibration_images,
            "max_drop": result.max_drop,
            "machine": result.machine,
            "passed": result.passed,
        },
        lambda console: render(console, result),
    )
    if not result.passed:
        raise typer.Exit(GATE_NOT_MET)


def render(console: Console, result: DemoResult) -> None:
    """Show the demo's table."""
    from rich.table import Table

    machine = result.machine
    grid = Table(
        title=f"{result.rows[0].model} on {result.images:,} test images, "
        f"calibrated on {result.calibration_images}",
        caption=f"p50 at batch 1 on {machine['cpu']}, {machine['usable_cpus']} CPUs, "
        f"{machine['date']}",
    )
    grid.add_column("backend")
    grid.add_column("precision")
    for heading in ("size kB", "top-1 %", "drop", "agreement %", "p50 ms", "speed-up"):
        grid.add_column(heading, justify="right")
    grid.add_column("executed")
    grid.add_column("gate")
    for row in result.rows:
        grid.add_row(*_cells(row))
    console.print(grid)
    for line in _remarks(result):
        console.print(line)
    console.print(f"bundle: {result.bundle.path}")


def _cells(row: DemoRow) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    style = {"pass": "[green]pass[/green]", None: "reference"}
    return [
        row.backend,
        row.precision,
        number(None if row.size is None else row.size / 1000, ",.0f"),
        number(row.top1, ".2f"),
        number(row.drop_points, "+.2f"),
        number(row.agreement, ".2f"),
        number(row.p50_ms, ".3f"),
        "–" if row.speedup is None else f"{row.speedup:.1f}x",
        row.executed,
        style.get(row.outcome, f"[red]{row.outcome}[/red]"),
    ]


def _remarks(result: DemoResult) -> list[str]:
    sizes = {(r.backend, r.precision): r.size for r in result.rows}
    remarks = [
        f"gate: the upper 95 % limit of the drop must be within {result.max_drop} points",
    ]
    if any(row.executed == "graph" for row in result.rows):
        remarks.append(
            "executed graph: the engine was built, its graph was run by ONNX Runtime in its place"
        )
    int8, fp32 = sizes.get(("tensorrt_rtx", "int8")), sizes.get(("tensorrt_rtx", "fp32"))
    if int8 and fp32 and int8 > fp32:
        remarks.append(
            "the INT8 plan is larger than the FP32 one: INT8 kernels weigh about 3 MB, "
            "which so small a network does not win back"
        )
    return remarks
