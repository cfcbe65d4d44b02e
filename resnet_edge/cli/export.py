"""``resnet-edge export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.export import ExportResult
    from resnet_edge.models.checkpoint import Head

__all__ = ["export"]


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="safetensors or PyTorch file, index of shards, or directory."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Bundle; default engines/builds/<checkpoint>."),
    ] = None,
    data: options.DataOption = None,
    labels: options.LabelsOption = None,
    arch: Annotated[str, typer.Option(help="Architecture, or auto.")] = "auto",
    head: Annotated[str, typer.Option(help="fc, or none for the pooled features alone.")] = "fc",
    stride_in_1x1: Annotated[
        bool | None,
        typer.Option(
            "--stride-in-1x1/--stride-in-3x3",
            help="Bottleneck v1 or v1.5; default as recorded, or as labelled --data or "
            "--known-logits tell, else v1.5.",
        ),
    ] = None,
    known_logits: Annotated[
        Path | None,
        typer.Option(help=".npz file with 'input' and the 'logits' that must be reproduced."),
    ] = None,
    input_type: Annotated[
        str, typer.Option("--input", help="float, or uint8 with normalisation in the graph.")
    ] = "float",
    simplify: Annotated[bool, typer.Option(help="Run onnxsim.")] = True,
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
    """Checkpoint to verified ONNX, with the golden PyTorch reference beside it."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.data import open_images
    from resnet_edge.export import ExportConfig
    from resnet_edge.export import export as run_export
    from resnet_edge.imaging import IMAGENET
    from resnet_edge.models.checkpoint import read_checkpoint

    if head not in ("fc", "none"):
        raise ConfigError(f"unknown head {head!r}", hint="use fc or none")
    flags = options.ImageSpecFlags(resize, crop, interpolation, mean, std, color)
    spec = None
    if flags.given:
        recorded = read_checkpoint(checkpoint, arch=arch, head=cast("Head", head)).image_spec
        spec = flags.applied_to(recorded or IMAGENET)
    result = run_export(
        checkpoint,
        output or Path("engines/builds") / checkpoint.stem,
        ExportConfig(
            arch=arch,
            head=cast("Literal['fc', 'none']", head),
            input=cast("Literal['float', 'uint8']", input_type),
            simplify=simplify,
            stride_in_1x1=stride_in_1x1,
            image_spec=spec,
            known_logits=known_logits,
        ),
        images=None if data is None else open_images(data, labels=labels),
        progress=out.progress,
    )
    out.result(
        {
            "bundle": str(result.bundle.path),
            "model": str(result.bundle.file("model.onnx")),
            "architecture": result.bundle.model.architecture,
            "parity": {**vars(result.parity), "accepted": result.parity.accepted},
            "nodes": result.nodes,
            "notes": list(result.notes),
            "cached": result.cached,
        },
        lambda console: _render(console, result),
    )


def _render(console: Console, result: ExportResult) -> None:
    info, parity = result.bundle.model, result.parity
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"{info.architecture}, {info.num_classes} classes, {info.parameters or 0:,} parameters, "
        f"{(info.macs or 0) / 1e6:,.1f} M multiply-adds"
    )
    console.print(
        f"ONNX equals PyTorch on {parity.n} images: max|Δ| {parity.max_abs:.2g} at max|logit| "
        f"{parity.max_logit:.3g}, same class on {parity.argmax_equal}"
    )
    console.print(f"{result.bundle.path}" + (" (unchanged)" if result.cached else ""))
