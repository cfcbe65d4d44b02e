"""``resnet-edge calibrate`` and ``resnet-edge recipes``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.recipes import DEFAULT_RECIPE

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.calibrate.stage import CalibrationResult
    from resnet_edge.recipes import Recipe

__all__ = ["calibrate", "recipes"]


def calibrate(
    bundle: options.BundleArgument,
    data: Annotated[Path, typer.Option(help="Calibration images, not the ones you evaluate on.")],
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Find INT8 activation ranges on real images; writes a table and a TensorRT cache."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.bundle import Bundle
    from resnet_edge.calibrate.stage import CACHE, TABLE
    from resnet_edge.calibrate.stage import calibrate as run_calibrate
    from resnet_edge.data import open_images
    from resnet_edge.recipes import load_recipe

    opened = Bundle.open(bundle)
    result = run_calibrate(
        opened, open_images(data, split="train"), load_recipe(recipe), progress=out.progress
    )
    out.result(
        {
            "table": str(opened.file(TABLE)),
            "cache": str(opened.file(CACHE)),
            "recipe": dict(result.table.recipe),
            "images": len(result.table.images),
            "skipped": result.table.skipped,
            "tensors": {name: r.amax for name, r in result.table.tensors.items()},
            "cached": result.cached,
        },
        lambda console: _render(console, opened.path, result),
    )


def _render(console: Console, bundle: Path, result: CalibrationResult) -> None:
    from rich.table import Table

    table = result.table
    methods = list(next(iter(table.tensors.values())).estimates)
    grid = Table(title=f"ranges by {table.recipe['name']} on {len(table.images)} images")
    grid.add_column("tensor")
    for heading in ("min", "max", *methods, "scale"):
        grid.add_column(heading, justify="right")
    for name, found in table.tensors.items():
        values = (found.minimum, found.maximum, *found.estimates.values(), found.amax / 127)
        grid.add_row(name, *[f"{value:.4g}" for value in values])
    console.print(grid)
    console.print(f"{bundle}" + (" (unchanged)" if result.cached else ""))


def recipes(json: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False) -> None:
    """List the calibration recipes."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.recipes import list_recipes

    found = list_recipes()
    out.result(
        {"recipes": [recipe.to_json() for recipe in found]},
        lambda console: _render_recipes(console, found),
    )


def _render_recipes(console: Console, found: tuple[Recipe, ...]) -> None:
    for recipe in found:
        default = " (default)" if recipe.name == DEFAULT_RECIPE else ""
        console.print(f"{recipe.name:<18} {recipe.description}{default}")
