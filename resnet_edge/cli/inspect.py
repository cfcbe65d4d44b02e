"""``resnet-edge inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["inspect"]


def inspect(
    path: Annotated[Path, typer.Argument(help="Checkpoint, bundle, ONNX file or engine.")],
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Say what a file is: architecture, size, preprocessing, provenance."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.inspect import inspect as run_inspect

    found = run_inspect(path)
    out.result(found, lambda console: _render(console, found))


def _render(console: Console, found: dict[str, Any]) -> None:
    for key, value in found.items():
        if isinstance(value, dict):
            console.print(f"{key}:")
            for name, item in value.items():
                shown = item.get("bytes", item) if isinstance(item, dict) else item
                console.print(f"  {name:<28} {shown}")
        elif isinstance(value, list) and value:
            console.print(f"{key}: {', '.join(str(v) for v in value)}")
        elif isinstance(value, int) and not isinstance(value, bool):
            console.print(f"{key}: {value:,}")
        elif value not in (None, [], ""):
            console.print(f"{key}: {value}")
