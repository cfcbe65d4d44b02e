"""``resnet-edge export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from resnet_edge.export.foreign.import_onnx import ImportResult
    from resnet_edge.export.stage import ExportResult
    from resnet_edge.images.source import ImageSource
    from resnet_edge.progress import Progress

__all__ = ["export"]


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="safetensors, PyTorch or ONNX file, index of shards, or Hugging Face directory."
        ),
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
    from resnet_edge.export.stage import ExportConfig
    from resnet_edge.export.stage import export as run_export
    from resnet_edge.images.opening import open_images

    options.refuse_labels_alone(labels, data)
    folder = output or Path("engines/builds") / checkpoint.stem
    images = None if data is None else open_images(data, labels=labels)
    flags = options.ImageSpecFlags(resize, crop, interpolation, mean, std, color)
    of_onnx = {"--output-name": output_name, "--class-names": class_names}
    of_checkpoint = {
        "--arch": arch if arch != "auto" else None,
        "--head": head if head != "fc" else None,
        "--stride-in-1x1": stride_in_1x1,
        "--known-logits": known_logits,
        "--input": input_type if input_type != "float" else None,
    }
    result: ExportResult | ImportResult
    if checkpoint.suffix == ".onnx":
        _refuse(of_checkpoint, f"for checkpoints; {checkpoint} is an ONNX file and fixes it itself")
        result = _import(
            checkpoint, folder, flags, class_names, output_name, simplify, images, out.progress
        )
    else:
        _refuse(of_onnx, f"for ONNX files; {checkpoint} is a checkpoint and has its own")
        config = ExportConfig(
            arch=arch,
            head=_head(head),
            input=cast("Literal['float', 'uint8']", input_type),
            simplify=simplify,
            stride_in_1x1=stride_in_1x1,
            image_spec=flags.change,
            known_logits=known_logits,
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


def _refuse(given: Mapping[str, object], why: str) -> None:
    wrong = [option for option, value in given.items() if value is not None]
    if wrong:
        raise ConfigError(f"{' and '.join(wrong)}: only {why}", hint="leave it out")


def _head(name: str) -> Literal["fc", "none"]:
    if name not in ("fc", "none"):
        raise ConfigError(f"unknown head {name!r}", hint="use fc or none")
    return cast("Literal['fc', 'none']", name)


def _import(
    onnx: Path,
    folder: Path,
    flags: options.ImageSpecFlags,
    class_names: Path | None,
    output_name: str | None,
    simplify: bool,
    images: ImageSource | None,
    progress: Progress,
) -> ImportResult:
    from resnet_edge.export.foreign.import_onnx import ImportConfig, import_onnx
    from resnet_edge.images.labels import read_class_names

    names = None if class_names is None else read_class_names(class_names)
    config = ImportConfig(flags.change, names, output_name, simplify)
    return import_onnx(onnx, folder, config, images=images, progress=progress)


def _render(console: Console, result: ExportResult | ImportResult) -> None:
    info, parity = result.bundle.model, result.parity
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"{info.architecture}, {info.num_classes} outputs, {info.parameters or 0:,} parameters, "
        f"{(info.macs or 0) / 1e6:,.1f} M multiply-adds"
    )
    made_from = "the original" if info.architecture == "onnx" else "PyTorch"
    console.print(
        f"ONNX equals {made_from} on {parity.n} images: max|Δ| {parity.max_abs:.2g} at max|logit| "
        f"{parity.max_logit:.3g}, same class on {parity.argmax_equal}"
    )
    console.print(f"{result.bundle.path}" + (" (unchanged)" if result.cached else ""))
