"""``resnet-edge build``."""

from __future__ import annotations

import logging
import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.catalog.recipes import DEFAULT_RECIPE
from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.backends.config import BuildConfig, Calibrator
    from resnet_edge.build.stage import BuildResult
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.catalog.targets import Target

__all__ = ["build"]

log = logging.getLogger(__name__)


class CalibratorName(Enum):
    """Values of ``--calibrator``."""

    RANGES = "ranges"
    ENTROPY = "entropy"
    MINMAX = "minmax"


def build(
    bundle: options.BundleArgument,
    fp16: Annotated[
        bool | None, typer.Option("--fp16/--no-fp16", help="FP16; with --int8: the rest.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="INT8, with FP16 for the rest.")] = False,
    target: options.TargetOption = "auto",
    data: options.DataOption = None,
    from_cache: Annotated[
        Path | None,
        typer.Option(help="Take over the ranges of a TensorRT calibration cache first."),
    ] = None,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Smallest,optimal,largest batch, or one number for a fixed batch; default "
            "1,8,32, or what the model is fixed to."
        ),
    ] = None,
    strongly_typed: Annotated[
        bool,
        typer.Option("--strongly-typed", help="The graph decides every type (TensorRT 10)."),
    ] = False,
    implicit: Annotated[
        bool,
        typer.Option("--implicit", help="INT8 without Q/DQ pairs (TensorRT 8 and 10, DLA)."),
    ] = False,
    calibrator: Annotated[
        CalibratorName,
        typer.Option(help="With --implicit: our ranges, or TensorRT's own algorithm on --data."),
    ] = CalibratorName.RANGES,
    dla: Annotated[
        int | None, typer.Option(min=0, help="DLA core; the GPU runs what it cannot.")
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="RTX: build for these GPUs, comma-separated, for example 8.6,8.9."),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="MiB of scratch memory; default by the target.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="0 builds fastest, 5 searches longest.")
    ] = None,
    builds: Annotated[
        int, typer.Option(min=1, help="Build so often and keep the fastest engine.")
    ] = 1,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Runs with later TensorRT versions too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Runs on every GPU from Ampere on.")
    ] = False,
    sparsity: Annotated[
        bool, typer.Option("--sparsity", help="Use 2:4 sparse kernels where the weights allow.")
    ] = False,
    timing_cache: Annotated[
        bool, typer.Option("--timing-cache/--no-timing-cache", help="Remember kernel timings.")
    ] = True,
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            help="INT8 for the CPU: 7-bit weights, as an x86 without VNNI needs them; default as "
            "this machine does."
        ),
    ] = None,
    save_engine: Annotated[
        Path | None, typer.Option(help="Also copy the engine, with its sidecar, to this file.")
    ] = None,
    print_trtexec: Annotated[
        str | None,
        typer.Option(
            metavar="[=VERSION]",
            help="Build nothing; print the trtexec command that would, for the installed TensorRT, "
            "the target's, or this version.",
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
    from resnet_edge.backends.config import BuildConfig
    from resnet_edge.build.stage import build as run_build
    from resnet_edge.build.stage import check_build
    from resnet_edge.bundle.sidecar import copy_engine
    from resnet_edge.calibrate.adopt import adopt
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.automatic import resolve_target
    from resnet_edge.catalog.recipes import load_recipe
    from resnet_edge.images.opening import open_calibration

    sources = [f for f, v in (("--data", data), ("--from-cache", from_cache)) if v is not None]
    if sources and not int8:
        raise ConfigError(
            f"{sources[0]} is for calibration, which only INT8 needs", hint="add --int8"
        )
    if len(sources) > 1:
        raise ConfigError(f"{' and '.join(sources)} contradict each other", hint="leave one out")
    flags = options.ImageSpecFlags(resize, crop, interpolation, mean, std, color)
    opened = options.open_bundle(bundle, out, flags)
    resolved = resolve_target(target)
    config = BuildConfig(
        precision="int8" if int8 else "fp16" if fp16 else "fp32",
        rest="fp32" if fp16 is False else "fp16",
        profile=_batches(opened, profile),
        strongly_typed=strongly_typed,
        implicit=_implicit(implicit, calibrator, int8_on_dla=int8 and dla is not None),
        dla=dla,
        compute_capabilities=tuple(compute_capability.split(",")) if compute_capability else (),
        workspace=workspace,
        optimization_level=optimization_level,
        builds=builds,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        sparsity=sparsity,
        timing_cache=timing_cache,
        reduce_range=reduce_range,
    )
    if print_trtexec is not None:
        _print_command(out, opened, resolved, config, print_trtexec)
        return
    check_build(opened, resolved, config)  # before a calibration, which may take long
    if from_cache is not None:
        adopt(opened, from_cache, "cache")
    images = None if data is None else open_calibration(data)
    if images is not None and config.implicit in (None, "ranges"):
        calibrate(opened, images, load_recipe(recipe), progress=out.progress)
    result = run_build(opened, resolved, config, images=images, progress=out.progress)
    if save_engine is not None:
        copy_engine(result.engine, save_engine)
    sidecar = result.sidecar
    out.result(
        {
            "engine": str(result.engine),
            "saved": None if save_engine is None else str(save_engine),
            "sidecar": str(result.sidecar_file),
            "backend": sidecar.backend,
            "target": sidecar.target,
            "precision": sidecar.precision,
            "rest": sidecar.rest,
            "bytes": result.size,
            "seconds": result.seconds,
            "settings": dict(sidecar.settings),
            "warnings": list(sidecar.warnings),
            "notes": list(sidecar.notes),
            "cached": result.cached,
        },
        lambda console: _render(console, result),
    )


def _print_command(
    out: Output, bundle: Bundle, target: Target, config: BuildConfig, version: str
) -> None:
    from resnet_edge.build.trtexec_equivalent import equivalent_command

    wanted = None if version == "auto" else version
    found = equivalent_command(bundle, target, config, wanted)
    log.info("for trtexec of TensorRT %s", found.version)
    for file in found.missing:
        log.warning("%s is not there yet; build and quantize make it", file)
    for note in found.notes:
        log.warning("%s", note)
    out.result(
        {
            "tensorrt": found.version,
            "command": list(found.words),
            "missing": list(found.missing),
            "notes": list(found.notes),
        },
        lambda console: console.print(shlex.join(found.words), markup=False, no_wrap=True),
    )


def _batches(bundle: Bundle, profile: str | None) -> tuple[int, int, int]:
    from resnet_edge.bundle.names import MODEL
    from resnet_edge.graph.onnx_model import fixed_batch, load_graph

    if profile is None:
        profile = str(fixed_batch(load_graph(bundle.artifact(MODEL))) or "1,8,32")
    batches = [int(n) for n in options.numbers(profile)]
    if len(batches) == 1:
        batches *= 3
    if len(batches) != 3:
        raise ConfigError(f"--profile takes one or three numbers, not {len(batches)}")
    return batches[0], batches[1], batches[2]


def _implicit(
    implicit: bool, calibrator: CalibratorName, *, int8_on_dla: bool
) -> Calibrator | None:
    """Return where implicit INT8 takes its ranges from; the DLA takes no other INT8."""
    if implicit or int8_on_dla:
        return calibrator.value
    if calibrator is not CalibratorName.RANGES:
        raise ConfigError(
            f"--calibrator {calibrator.value} is for implicit INT8", hint="add --implicit"
        )
    return None


def _render(console: Console, result: BuildResult) -> None:
    sidecar = result.sidecar
    rest = f" with {sidecar.rest} rest" if sidecar.precision == "int8" else ""
    console.print(
        f"{sidecar.precision}{rest} for {sidecar.target} ({sidecar.backend} "
        f"{sidecar.runtime_version}): {result.size / 1e6:.2f} MB in {result.seconds:.1f} s"
        + (" (unchanged)" if result.cached else "")
    )
    for note in sidecar.notes:
        console.print(f"  {note}")
    console.print(f"{result.engine}")
