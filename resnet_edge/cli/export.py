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
    from resnet_edge.foreign.stage import ImportResult

__all__ = ["export"]


def export(
    checkpoint: Annotated[Path, typer.Argument(help="safetensors, PyTorch or ONNX file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Bundle; default engines/builds/<checkpoint>."),
    ] = None,
    data: options.DataOption = None,
    labels: options.LabelsOption = None,
    arch: Annotated[str, typer.Option(help="Architecture, or auto.")] = "auto",
    stride_in_1x1: Annotated[
        bool | None,
        typer.Option(
            "--stride-in-1x1/--stride-in-3x3", help="Bottleneck v1 or v1.5; default as recorded."
        ),
    ] = None,
    input_type: Annotated[
        str, typer.Option("--input", help="float, or uint8 with normalisation in the graph.")
    ] = "float",
    simplify: Annotated[bool, typer.Option(help="Run onnxsim.")] = True,
    output_name: Annotated[
        str | None,
        typer.Option(help="Of an ONNX file with several: the output that holds the logits."),
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="For an ONNX file: the classes in order, one name a line.")
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
    """Checkpoint to verified ONNX, with the golden reference beside it; or ONNX to the same."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.data import open_images, read_class_names

    flags = options.ImageSpecFlags(resize, crop, interpolation, mean, std, color)
    folder = output or Path("engines/builds") / checkpoint.stem
    images = None if data is None else open_images(data, labels=labels)
    result: ExportResult | ImportResult
    if checkpoint.suffix == ".onnx":
        from resnet_edge.foreign.stage import ImportConfig, import_onnx

        if (arch, stride_in_1x1, input_type) != ("auto", None, "float"):
            raise ConfigError(
                f"--arch, --stride-in-1x1 and --input are for checkpoints; {checkpoint} is ONNX",
                hint="leave them out: the file says what it is and takes",
            )
        names = None if class_names is None else read_class_names(class_names)
        onnx = ImportConfig(flags.for_onnx(checkpoint), names, output_name, simplify)
        result = import_onnx(checkpoint, folder, onnx, images=images, progress=out.progress)
    else:
        from resnet_edge.export import ExportConfig
        from resnet_edge.export import export as run_export
        from resnet_edge.models.checkpoint import read_checkpoint

        if output_name is not None or class_names is not None:
            raise ConfigError(
                f"--output-name and --class-names are for ONNX files; {checkpoint} is none",
                hint="leave them out: a checkpoint has one output and its own class names",
            )
        recorded = read_checkpoint(checkpoint, arch=arch, stride_in_1x1=stride_in_1x1).image_spec
        config = ExportConfig(
            arch=arch,
            input=cast("Literal['float', 'uint8']", input_type),
            simplify=simplify,
            stride_in_1x1=stride_in_1x1,
            image_spec=flags.applied_to(recorded) if flags.given else None,
        )
        result = run_export(checkpoint, folder, config, images=images, progress=out.progress)
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


def _render(console: Console, result: ExportResult | ImportResult) -> None:
    info, parity = result.bundle.model, result.parity
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(
        f"{info.architecture}, {info.num_classes} classes, {info.parameters or 0:,} parameters, "
        f"{(info.macs or 0) / 1e6:,.1f} M multiply-adds"
    )
    made_from = "the original" if info.architecture == "onnx" else "PyTorch"
    console.print(
        f"ONNX equals {made_from} on {parity.n} images: max|Δ| {parity.max_abs:.2g} at max|logit| "
        f"{parity.max_logit:.3g}, same class on {parity.argmax_equal}"
    )
    console.print(f"{result.bundle.path}" + (" (unchanged)" if result.cached else ""))
