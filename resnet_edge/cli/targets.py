"""``resnet-edge targets``: list, show and copy the devices an engine can be built for."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.catalog.targets import Target

__all__ = ["app"]

app = typer.Typer(help="List the devices an engine can be built for.")

NameArgument = Annotated[str, typer.Argument(help="A name, the path of a .toml file, or auto.")]


@app.callback(invoke_without_command=True)
def targets(
    context: typer.Context,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """List the devices an engine can be built for."""
    if context.invoked_subcommand is None:
        ls(json=json, quiet=quiet, debug=debug)


@app.command()
def ls(json: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False) -> None:
    """List the devices, as targets alone does."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.catalog.targets import list_targets

    found = list_targets()
    out.result(
        {"targets": [asdict(target) for target in found]},
        lambda console: _render_list(console, found),
    )


@app.command()
def show(
    name: NameArgument,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Show everything about one device; auto is this machine."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.catalog.automatic import resolve_target

    target = resolve_target(name)
    data = {**asdict(target), "workspace_bytes": target.workspace_bytes}
    out.result(data, lambda console: _render(console, data))


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A name, or the path of a .toml file.")],
    to: Annotated[str, typer.Argument(help="Name of the copy, or the path of a .toml file.")],
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Copy a device to engines/targets of the working directory, to adapt it."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.catalog.entries import copy_entry
    from resnet_edge.catalog.targets import FOLDER, load_target

    load_target(name)  # a broken file is not worth copying
    made = copy_entry(FOLDER, name, to)
    shown = str(made) if made.parent != Path(FOLDER) else made.stem
    out.result(
        {"target": str(made)},
        lambda console: console.print(f"{made}; use it with --target {shown}"),
    )


def _render_list(console: Console, found: tuple[Target, ...]) -> None:
    for target in found:
        capability = f"SM {target.compute_capability}" if target.compute_capability else ""
        console.print(
            f"{target.name:<21} {capability:<8} {target.backend:<13} {target.description}"
        )


def _render(console: Console, data: dict[str, Any]) -> None:
    for key, value in data.items():
        if key == "software" and value:
            console.print("software:")
            for item in value:
                console.print(f"  {_inline(item)}")
        elif value not in (None, "", ()):
            console.print(f"{key}: {_text(value)}")


def _inline(table: dict[str, Any]) -> str:
    shown = {key: value for key, value in table.items() if value is not None and value is not False}
    return ", ".join(f"{key} {_text(value)}" for key, value in shown.items())


def _text(value: Any) -> str:
    """Write a value on one line: a range of versions, power modes, names or a table."""
    if isinstance(value, dict):
        return _inline(value)
    if not isinstance(value, tuple):
        return str(value)
    if isinstance(value[0], dict):
        return ", ".join(f"{mode['id']}:{mode['name']}" for mode in value)
    versions = all(re.fullmatch(r"[\d.]+", item) for item in value)
    return (" to " if versions else ", ").join(dict.fromkeys(value))
