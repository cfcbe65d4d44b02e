"""``resnet-edge experiment degradation``: plain against residual networks."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_edge.models.resnet_config import Shortcut
    from resnet_edge.train.loop import TrainConfig

__all__ = ["app"]

app = typer.Typer(help="The paper's experiments with plain and residual networks.")

DataOption = Annotated[
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

_OPTIONS: tuple[Shortcut, ...] = ("A", "B", "C")  # of the paper's section 3.3
_DATA = Path("/usr/share/datasets/fashion-mnist")


@app.command()
def degradation(
    data: DataOption = _DATA,
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


@app.command()
def shortcuts(
    data: DataOption = _DATA,
    arch: Annotated[str, typer.Option(help="A residual network.")] = "resnet20",
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
    """Train one network with shortcut options A, B and C; run the same again to resume."""
    out = Output(json=json, quiet=quiet, debug=debug)
    recipe = _recipe(epochs, epoch_images, width, amp, device)
    networks = [replace(recipe, arch=arch, shortcut=option) for option in _OPTIONS]
    _compare(networks, data, seeds, size, output or Path("runs/shortcuts"), out)


@app.command()
def responses(
    run: Annotated[Path, typer.Argument(help="Directory that 'degradation' has written.")],
    data: DataOption = _DATA,
    images: Annotated[int, typer.Option(min=1, help="Test images to respond to.")] = 2000,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure how strongly every layer of the trained networks responds (the paper's figure 7)."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.experiment.pictures import plot_responses
    from resnet_edge.experiment.responses import measure_responses, responses_table
    from resnet_edge.files import write_json
    from resnet_edge.images.opening import open_images

    _refuse_missing(data)
    test = open_images(data, split="test")
    measured = measure_responses(run, test, count=images, progress=out.progress)
    result = {
        "command": _command_line(),
        "images": min(images, len(test)),
        "networks": [asdict(network) for network in measured],
    }
    write_json(run / "responses.json", result)
    plot_responses(measured, run / "responses.svg")
    out.result(
        result, lambda console: console.print(responses_table(measured), run / "responses.svg")
    )


def _recipe(epochs: int, epoch_images: int, width: float, amp: bool, device: str) -> TrainConfig:
    """Return the train stage's recipe with the paper's batch size, learning rate and decay."""
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
    """Train the networks on one set of images, and print and write what came of it."""
    from resnet_edge.cli.train import default_image_spec
    from resnet_edge.errors import DataError
    from resnet_edge.experiment.compare import compare
    from resnet_edge.experiment.curves import CURVES, PLOT, final_table
    from resnet_edge.images.opening import open_images
    from resnet_edge.models.zoo import architecture

    for network in networks:
        # A wrong name is refused before anything is trained.
        architecture(network.arch, width=network.width, shortcut=network.shortcut)
    _refuse_missing(data)
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
        command=_command_line(),
        progress=out.progress,
    )
    out.result(
        {"curves": str(output / CURVES), "plot": str(output / PLOT), **comparison.to_json()},
        lambda console: console.print(final_table(comparison), output / PLOT),
    )


def _command_line() -> str:
    return " ".join(["resnet-edge", *sys.argv[1:]])


def _refuse_missing(data: Path) -> None:
    from resnet_edge.errors import DataError

    if data == _DATA and not data.exists():
        raise DataError(
            f"Fashion-MNIST is not at {data}",
            hint="apt-get install dataset-fashion-mnist, or pass --data DIR",
        )
