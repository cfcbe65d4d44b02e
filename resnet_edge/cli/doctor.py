"""``resnet-edge doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag, show_error
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

    from resnet_edge.doctor.checks import Check
    from resnet_edge.doctor.report import Report

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "n.a.": "dim"}


def doctor(
    require: Annotated[
        list[str] | None, typer.Option(help="Exit 1 unless this backend can be used; repeatable.")
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Say what this machine can do, what is missing, and the command that fixes it."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.catalog.targets import list_targets
    from resnet_edge.doctor.backends import BACKENDS
    from resnet_edge.doctor.examined import look
    from resnet_edge.doctor.report import examine

    wanted = require or []
    if unknown := [name for name in wanted if name not in BACKENDS]:
        raise ConfigError(
            f"--require {unknown[0]}: no such backend", hint=f"use one of {', '.join(BACKENDS)}"
        )
    report = examine(look(), list_targets())
    out.result(report.to_json(), lambda console: _render(console, report))
    missing = [name for name in wanted if not report.usable(name)]
    for name in missing:
        reason = next(check for check in report.backends[name] if check.status == "fail")
        show_error("BackendUnavailableError", f"{name}: {reason.found}", reason.fix, json=False)
    if missing:
        raise typer.Exit(1)


def _render(console: Console, report: Report) -> None:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        grid.add_column(overflow="fold")
    _add(grid, "machine", report.board)
    for name, checks in report.backends.items():
        _add(grid, name, checks)
    console.print(grid, soft_wrap=False)
    usable = [name for name in report.backends if report.usable(name)]
    console.print(f"usable: {', '.join(usable) or 'none'}")


def _add(grid: Table, group: str, checks: Iterable[Check]) -> None:
    from rich.markup import escape

    for position, check in enumerate(checks):
        colour = _COLOURS[check.status]
        grid.add_row(
            "" if position else f"[bold]{group}[/]",
            f"[{colour}]{check.status}[/]",
            check.name,
            escape(check.found) + (f"\n[dim]→[/] {escape(check.fix)}" if check.fix else ""),
        )
