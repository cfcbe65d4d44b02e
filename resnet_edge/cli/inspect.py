"""``resnet-edge inspect``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["inspect"]

_SENTENCES = ("evidence", "notes")
_SHOWN = 10  # of a list, such as a thousand class names


def inspect(
    path: Annotated[Path, typer.Argument(help="Checkpoint, bundle, ONNX file or engine.")],
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Say what a file is: architecture, size, preprocessing, provenance."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.report.inspect import inspect as run_inspect

    found = run_inspect(path)
    out.result(found, lambda console: _render(console, found))


def _render(console: Console, found: dict[str, Any]) -> None:
    say = partial(console.print, markup=False)  # names in a file may look like markup
    for key, value in found.items():
        if isinstance(value, dict):
            say(f"{key}:")
            for name, item in value.items():
                shown = item.get("bytes", item) if isinstance(item, dict) else item
                say(f"  {name:<28} {shown}")
        elif key in _SENTENCES and value:
            say(f"{key}:")
            for sentence in value:
                say(f"  {sentence}")
        elif isinstance(value, list) and value:
            more = f" … {len(value)} in all" if len(value) > _SHOWN else ""
            say(f"{key}: {', '.join(str(v) for v in value[:_SHOWN])}{more}")
        elif isinstance(value, int) and not isinstance(value, bool):
            say(f"{key}: {value:,}")
        elif value not in (None, [], ""):
            say(f"{key}: {value}")
