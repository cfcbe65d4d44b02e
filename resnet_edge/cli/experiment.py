"""``resnet-edge experiment degradation``: plain against residual networks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_edge.experiment.curves import Comparison
    from resnet_edge.train.loop import TrainConfig

__all__ = ["app"]

app = typer.Typer(help="The paper's experiments with plain and residual networks.")

DataArgument = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Fashion-MNIST (default: where Debian's dataset-fashion-mnist puts it), CIFAR-10's "
        "binary files, or images with a training and a test part.",
    ),
]
EpochsOption = Annotated[int, typer.Option(min=1, help="Times --epoch-images are seen.")]
EpochImagesOption = Annotated[
    int, typer.Option(min=0, help="Images of an epoch, drawn afresh for each; 0 takes all.")
]
SeedsOption = Annotated[int, typer.Option(min=1, help="Runs of every network.")]
WidthOption = Annotated[
    float, typer.Option(min=0.01, help="Multiplier on the channels of every network.")
]
SizeOption = Annotated[
    int | None, typer.Option(min=8, help="Side of the square input; default the images' own.")
]
AmpOption = Annotated[bool, typer.Option("--amp", help="Compute in bfloat16.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Directory of curves, plot and runs.")
]

_DATA = Path("/usr/share/datasets/fashion-mnist")


@app.command()
def degradation(
    data: DataArgument = _DATA,
    depths: Annotated[
        str, typer.Option(help="Comma-separated; each is trained plain and residual.")
    ] = "20,56",
    epochs: EpochsOption = 12,
    epoch_images: EpochImagesOption = 12_800,
    seeds: SeedsOption = 2,
    width: WidthOption = 1.0,
    size: SizeOption = None,
    amp: AmpOption = False,
    device: DeviceOption = "auto",
    output: OutputOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Train plain networks and their residual twins; run the same command again to resume."""
    out = Output(json=json, quiet=quiet, debug=debug)
    recipe = _recipe(epochs, epoch_images, width, amp, device)
    networks = [
        replace(recipe, arch=f"{kind}{depth.strip()}")
        for kind in ("plain", "resnet")
        for depth in depths.split(",")
    ]
    _compare(networks, data, seeds, size, output or Path("runs/degradation"), out)


def _recipe(epochs: int, epoch_images: int, width: float, amp: bool, device: str) -> TrainConfig:
    """Return the paper's recipe for small images, with a cosine in place of its two steps."""
    from resnet_edge.train.loop import TrainConfig

    return TrainConfig(
        epochs=epochs, epoch_images=epoch_images or None, width=width, batch_size=128, lr=0.1,
        weight_decay=1e-4, amp=amp, device=device,
    )  # fmt: skip


def _compare(
    networks: Sequence[TrainConfig],
    data: Path,
    seeds: int,
    size: int | None,
    output: Path,
    out: Output,
) -> None:
    from resnet_edge.cli.train import default_image_spec
    from resnet_edge.data import open_images
    from resnet_edge.errors import DataError
    from resnet_edge.experiment.compare import CURVES, PLOT, compare
    from resnet_edge.models.zoo import architecture

    for network in networks:
        architecture(network.arch, width=network.width)  # refuse a wrong name before training
    if data == _DATA and not data.exists():
        raise DataError(
            f"Fashion-MNIST is not at {data}",
            hint="apt-get install dataset-fashion-mnist, or pass --data DIR",
        )
    images, test = open_images(data, split="train"), open_images(data, split="test")
    if test.key(0) == images.key(0):
        raise DataError(
            f"{data} has no test part of its own",
            hint="an experiment needs a training and a test part, see --data",
        )
    comparison = compare(
        networks,
        seeds,
        output,
        images=images,
        test=test,
        spec=default_image_spec(images, size=size),
        command=" ".join(["resnet-edge", *sys.argv[1:]]),
        progress=out.progress,
    )
    out.result(
        {"curves": str(output / CURVES), "plot": str(output / PLOT), **comparison.to_json()},
        lambda console: console.print(_summary(comparison), output / PLOT),
    )


def _summary(comparison: Comparison) -> str:
    from resnet_edge.experiment.curves import final_table

    return final_table(comparison)
