"""``resnet-edge build``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.errors import ConfigError
from resnet_edge.recipes import DEFAULT_RECIPE

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.backends.base import BuildConfig
    from resnet_edge.build import BuildResult
    from resnet_edge.bundle import Bundle

__all__ = ["build"]


def build(
    bundle: options.BundleArgument,
    fp16: Annotated[
        bool | None, typer.Option("--fp16/--no-fp16", help="FP16; with --int8: the rest.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="INT8, with FP16 for the rest.")] = False,
    target: options.TargetOption = "auto",
    data: options.DataOption = None,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Smallest,optimal,largest batch, or one number for a fixed batch; default "
            "1,8,32, or what the model is fixed to."
        ),
    ] = None,
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            help="INT8 for the CPU: 7-bit weights, as an x86 without VNNI needs them; default as "
            "this machine does."
        ),
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
    """Build an engine for a target; with --int8 --data DIR it calibrates first."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.arrays import open_calibration
    from resnet_edge.build import build as run_build
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.recipes import load_recipe
    from resnet_edge.targets import resolve_target

    if data is not None and not int8:
        raise ConfigError("--data is for calibration, which only INT8 needs", hint="add --int8")
    flags = options.ImageSpecFlags(resize, crop, interpolation, mean, std, color)
    opened = options.open_bundle(bundle, out, flags)
    resolved = resolve_target(target)
    config = replace(_config(opened, int8, fp16, profile), reduce_range=reduce_range)
    if data is not None:
        calibrate(opened, open_calibration(data), load_recipe(recipe), progress=out.progress)
    result = run_build(opened, resolved, config, progress=out.progress)
    sidecar = result.sidecar
    out.result(
        {
            "engine": str(result.engine),
            "sidecar": str(result.sidecar_file),
            "backend": sidecar.backend,
            "target": sidecar.target,
            "precision": sidecar.precision,
            "rest": sidecar.rest,
            "bytes": result.size,
            "seconds": result.seconds,
            "warnings": list(sidecar.warnings),
            "cached": result.cached,
        },
        lambda console: _render(console, result),
    )


def _config(bundle: Bundle, int8: bool, fp16: bool | None, profile: str | None) -> BuildConfig:
    from resnet_edge.backends.base import BuildConfig
    from resnet_edge.graph import fixed_batch, load_graph
    from resnet_edge.reference import MODEL

    if profile is None:
        profile = str(fixed_batch(load_graph(bundle.artifact(MODEL))) or "1,8,32")
    batches = [int(n) for n in options.numbers(profile)]
    if len(batches) == 1:
        batches *= 3
    if len(batches) != 3:
        raise ConfigError(f"--profile takes one or three numbers, not {len(batches)}")
    return BuildConfig(
        precision="int8" if int8 else "fp16" if fp16 else "fp32",
        rest="fp32" if fp16 is False else "fp16",
        profile=(batches[0], batches[1], batches[2]),
    )


def _render(console: Console, result: BuildResult) -> None:
    sidecar = result.sidecar
    rest = f" with {sidecar.rest} rest" if sidecar.precision == "int8" else ""
    console.print(
        f"{sidecar.precision}{rest} for {sidecar.target} ({sidecar.backend} "
        f"{sidecar.runtime_version}): {result.size / 1e6:.2f} MB in {result.seconds:.1f} s"
        + (" (unchanged)" if result.cached else "")
    )
    console.print(f"{result.engine}")
