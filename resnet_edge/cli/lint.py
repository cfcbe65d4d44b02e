"""``resnet-edge lint``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.cli.verify import GATE_NOT_MET
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from resnet_edge.lint.check import Finding, Flavour

__all__ = ["lint"]

_NODES_SHOWN = 3
_COLORS = {"error": "red", "slow": "yellow", "note": "blue"}


def lint(
    onnx: Annotated[Path, typer.Argument(help="Q/DQ graph in ONNX, from any tool.")],
    fix: Annotated[bool, typer.Option("--fix", help="Repair what is mechanical.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Repaired graph; default *.fixed.onnx.")
    ] = None,
    flavours: Annotated[
        list[str] | None,
        typer.Option("--for", help="Only this TensorRT: 8.5, 8.6, 10-weak, strong or rtx."),
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Say what TensorRT would refuse or run in float in a Q/DQ graph; exit code 3 on an error."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.graph.onnx_model import load_graph, save_graph
    from resnet_edge.lint.check import lint as run_lint
    from resnet_edge.lint.check import select
    from resnet_edge.lint.fix import fix as run_fix

    if output is not None and not fix:
        raise ConfigError("--output is for the repaired graph", hint="add --fix")
    wanted = _flavours(flavours)
    model = load_graph(onnx)
    fixed: tuple[Finding, ...] = ()
    written: Path | None = None
    if fix:
        repaired = run_fix(model, wanted)
        findings, fixed = repaired.findings, repaired.fixed
        if fixed or output is not None:
            written = output or onnx.with_suffix(".fixed.onnx")
            save_graph(repaired.model, written)
    else:
        findings = run_lint(model)
    findings = select(findings, wanted)
    out.result(
        {
            "findings": [asdict(finding) for finding in findings],
            "fixed": len(fixed),
            "output": None if written is None else str(written),
        },
        lambda console: _render(console, findings, fixed, written),
    )
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(GATE_NOT_MET)


def _flavours(names: list[str] | None) -> tuple[Flavour, ...]:
    from resnet_edge.lint.check import FLAVOURS

    if unknown := set(names or ()) - set(FLAVOURS):
        raise ConfigError(
            f"--for {min(unknown)}: there is no such TensorRT", hint=f"known: {', '.join(FLAVOURS)}"
        )
    return tuple(f for f in FLAVOURS if not names or f in names)


def _render(
    console: Console,
    findings: tuple[Finding, ...],
    fixed: tuple[Finding, ...],
    written: Path | None,
) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from resnet_edge.lint.check import FLAVOURS

    if findings:
        table = Table("finding", "nodes", "what, and what repairs it", "TensorRT", box=box.SIMPLE)
        for group in _groups(findings):
            first = group[0]
            mark = f"[{_COLORS[first.severity]}]{first.severity}[/]\n{first.rule}"
            names = [escape(f.node) for f in group if f.node]
            shown = names[:_NODES_SHOWN]
            if len(names) > len(shown):
                shown.append(f"and {len(names) - len(shown)} more")
            repair = f"fix: {first.fix}{' (--fix)' if first.fixable else ''}"
            what = f"{escape(first.message)}\n[dim]{escape(repair)}[/]"
            everyone = set(first.flavours) == set(FLAVOURS)
            table.add_row(
                mark, "\n".join(shown), what, "all" if everyone else "\n".join(first.flavours)
            )
        console.print(table)
    if written is not None:
        rules = ", ".join(f"{group[0].rule} ×{len(group)}" for group in _groups(fixed))
        done = f"{len(fixed)} repaired ({rules}): " if rules else ""
        console.print(f"{done}{written}", markup=False)
    counts = {s: sum(f.severity == s for f in findings) for s in _COLORS}
    console.print(", ".join(f"{n} {s}" for s, n in counts.items() if n) or "nothing to object to")


def _groups(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Gather what the same rule says, and whether it can be repaired."""
    groups: dict[tuple[str, bool], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.rule, finding.fixable), []).append(finding)
    return list(groups.values())
