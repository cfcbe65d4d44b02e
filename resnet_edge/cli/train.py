"""``resnet-edge train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from resnet_edge.images.source import ImageSource
    from resnet_edge.images.spec import ImageSpec

__all__ = ["default_image_spec", "train"]


def train(
    data: Annotated[
        Path,
        typer.Argument(help="Directory with IDX files, or a class-per-folder tree of images."),
    ],
    arch: Annotated[str, typer.Option(help="resnet20, plain56, resnet18 …")] = "resnet20",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the run.")
    ] = None,
    test_data: Annotated[
        Path | None, typer.Option(help="Test images; default the test part of DATA, if any.")
    ] = None,
    exclude: Annotated[
        list[Path] | None, typer.Option(help="Image set that must not be trained on (by content).")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="L2 penalty.")] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.0,
    size: Annotated[
        int | None, typer.Option(min=8, help="Side of the square input; default the images' own.")
    ] = None,
    color: options.ColorOption = None,
    mean: options.MeanOption = None,
    std: options.StdOption = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in bfloat16.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Train a ResNet or its plain twin; run the same command again to resume."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.errors import DataError
    from resnet_edge.images import opening as images
    from resnet_edge.train.loop import TrainConfig
    from resnet_edge.train.stage import train as run_training

    training = images.open_images(data, split="train")
    spec = default_image_spec(training, size=size, color=color, mean=mean, std=std)
    try:
        testing = images.open_images(test_data or data, split="test")
    except DataError:
        if test_data is not None:
            raise
        testing = None
    if testing is not None and testing.key(0) == training.key(0):
        testing = None  # DATA has one part only
    result = run_training(
        training,
        TrainConfig(
            arch=arch, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay,
            label_smoothing=label_smoothing, seed=seed, amp=amp, device=device,
        ),
        output or Path("runs") / f"{arch}-{data.name}-seed{seed}",
        spec=spec,
        test=testing,
        exclude=[images.open_images(path) for path in exclude or []],
        command=" ".join(["resnet-edge", *sys.argv[1:]]),
        progress=out.progress,
    )  # fmt: skip
    out.result(
        {
            "checkpoint": str(result.checkpoint),
            "log": str(result.log),
            "train_top1": result.train_top1,
            "test_top1": result.test_top1,
            "excluded": result.excluded,
        },
        lambda console: console.print(
            f"train top-1 {result.train_top1:.2f} % (augmented), test top-1 "
            + (f"{result.test_top1:.2f} %" if result.test_top1 is not None else "not measured")
            + f"\n{result.checkpoint}"
        ),
    )


def default_image_spec(
    training: ImageSource,
    *,
    size: int | None = None,
    color: str | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> ImageSpec:
    """Return preprocessing that fits the first image, with what the user gave put in."""
    from dataclasses import replace

    from resnet_edge.images.spec import FASHION_MNIST, IMAGENET

    first = training.load(0)
    color = color or ("gray" if first.mode in ("1", "L", "I;16") else "rgb")
    default = FASHION_MNIST if color == "gray" else replace(IMAGENET, color=color)
    side = size or min(*first.size, IMAGENET.crop[0])
    return replace(
        default,
        resize=side,
        crop=(side, side),
        mean=default.mean if mean is None else options.numbers(mean),
        std=default.std if std is None else options.numbers(std),
    )
