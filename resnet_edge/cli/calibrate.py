"""``resnet-edge calibrate`` and ``resnet-edge recipes``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.catalog.recipes import DEFAULT_RECIPE
from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.bundle.ranges_table import RangesTable
    from resnet_edge.calibrate.stage import CalibrationResult
    from resnet_edge.catalog.recipes import Recipe
    from resnet_edge.images.source import ImageSource, NetworkInputs

__all__ = ["calibrate", "recipes"]


def calibrate(
    bundle: options.BundleArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Calibration images, not the ones you evaluate on: a directory, or a .npy or "
            ".npz file of uint8 images or float32 network inputs."
        ),
    ] = None,
    labels: options.LabelsOption = None,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    random: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="N random inputs instead of images; only to try things out."
        ),
    ] = None,
    from_cache: Annotated[
        Path | None,
        typer.Option(help="Take over the ranges of a TensorRT calibration cache instead."),
    ] = None,
    from_qdq: Annotated[
        Path | None,
        typer.Option(help="Take over the ranges of a Q/DQ model in ONNX, from any tool, instead."),
    ] = None,
    resize: options.ResizeOption = None,
    crop: options.CropOption = None,
    interpolation: options.InterpolationOption = None,
    mean: options.MeanOption = None,
    std: options.StdOption = None,
    color: options.ColorOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Find INT8 activation ranges on real images; writes a table and a TensorRT cache."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.bundle.names import CACHE, TABLE
    from resnet_edge.calibrate.adopt import adopt
    from resnet_edge.calibrate.stage import calibrate as run_calibrate
    from resnet_edge.catalog.recipes import load_recipe

    given = {"--data": data, "--random": random, "--from-cache": from_cache, "--from-qdq": from_qdq}
    _refuse_several([option for option, value in given.items() if value is not None])
    options.refuse_labels_alone(labels, data)
    flags = options.ImageSpecFlags(resize, crop, interpolation, mean, std, color)
    file = from_cache or from_qdq
    if file is not None:
        if recipe != DEFAULT_RECIPE:
            raise ConfigError("ranges that are taken over need no recipe", hint="drop --recipe")
        opened = options.open_bundle(bundle, out, flags)
        result = adopt(opened, file, "qdq" if from_cache is None else "cache")
    else:
        opened, chosen = options.open_bundle(bundle, out, flags), load_recipe(recipe)
        chosen = chosen if random is None else replace(chosen, images=random)
        source = _source(opened, data, labels, random)
        result = run_calibrate(opened, source, chosen, progress=out.progress)
    out.result(
        {
            "table": str(opened.file(TABLE)),
            "cache": str(opened.file(CACHE)),
            "recipe": dict(result.table.recipe),
            "images": len(result.table.images),
            "random": result.table.random,
            "skipped": result.table.skipped,
            "tensors": result.table.amax,
            "trials": [dict(trial) for trial in result.table.trials],
            "warnings": list(result.table.suspicions),
            "cached": result.cached,
        },
        lambda console: _render(console, opened.path, result),
    )


def _source(
    bundle: Bundle, data: Path | None, labels: Path | None, random: int | None
) -> ImageSource | NetworkInputs:
    from resnet_edge.images.arrays import RandomInputs
    from resnet_edge.images.opening import open_calibration

    if random is not None:
        return RandomInputs(bundle.model.image_spec.input_shape, random)
    assert data is not None  # _refuse_several leaves one of the four
    return open_calibration(data, labels)


def _refuse_several(given: list[str]) -> None:
    if not given:
        raise ConfigError(
            "calibration needs images", hint="add --data DIR; --random N is only to try things out"
        )
    if len(given) > 1:
        raise ConfigError(
            f"{' and '.join(given)} contradict each other", hint=f"drop {' and '.join(given[1:])}"
        )


def _render(console: Console, bundle: Path, result: CalibrationResult) -> None:
    from rich.table import Table

    from resnet_edge.tensors import QMAX

    table = result.table
    methods = list(next(iter(table.tensors.values())).estimates)
    what = f"{table.random} RANDOM INPUTS" if table.random else f"{len(table.images)} images"
    taken_over = table.recipe["method"] in ("cache", "qdq")
    source = f"of {table.recipe['name']}" if taken_over else f"by {table.recipe['name']} on {what}"
    grid = Table(title=f"ranges {source}")
    grid.add_column("tensor")
    for heading in ("min", "max", *methods, "scale", "SQNR dB"):
        grid.add_column(heading, justify="right")
    for name, found in table.tensors.items():
        values = (found.min, found.max, *found.estimates.values(), found.amax / QMAX)
        ratio = "–" if found.sqnr_db is None else f"{found.sqnr_db:.1f}"
        grid.add_row(name, *[f"{value:.4g}" for value in values], ratio)
    console.print(grid)
    if table.trials:
        _render_trials(console, table)
    for suspicion in table.suspicions:
        console.print(f"warning: {suspicion}")
    console.print(f"{bundle}" + (" (unchanged)" if result.cached else ""))


def _render_trials(console: Console, table: RangesTable) -> None:
    from rich.table import Table

    grid = Table(title="bake-off, scored on held-out images against the float model")
    for heading in ("", "equalized", "estimator", "bias correction"):
        grid.add_column(heading)
    labelled = table.trials[0].get("top1") is not None
    for heading in ("images", "agreement %", "KL, nats", *(["top-1 %"] if labelled else [])):
        grid.add_column(heading, justify="right")
    for trial in table.trials:
        grid.add_row(
            "chosen" if trial["chosen"] else "",
            "yes" if trial["equalized"] else "no",
            trial["method"],
            "yes" if trial["bias_corrected"] else "no",
            str(trial.get("images", "")),
            f"{trial['agreement']:.2f}",
            f"{trial['kl']:.2g}",
            *([f"{trial['top1']:.2f}"] if labelled else []),
            style="green" if trial["chosen"] else None,
        )
    console.print(grid)


def recipes(json: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False) -> None:
    """List the calibration recipes."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.catalog.recipes import list_recipes

    found = list_recipes()
    out.result(
        {"recipes": [recipe.to_json() for recipe in found]},
        lambda console: _render_recipes(console, found),
    )


def _render_recipes(console: Console, found: tuple[Recipe, ...]) -> None:
    for recipe in found:
        default = " (default)" if recipe.name == DEFAULT_RECIPE else ""
        console.print(f"{recipe.name:<18} {recipe.description}{default}")
