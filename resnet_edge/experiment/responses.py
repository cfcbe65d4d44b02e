"""How strongly every layer responds: the paper's figure 7, measured on trained networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import DataError
from resnet_edge.experiment.curves import CURVES, Comparison, run_directory
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from resnet_edge.progress import SILENT, Progress
from resnet_edge.train.stage import CHECKPOINT

if TYPE_CHECKING:
    from torch import Tensor, nn

    from resnet_edge.models.resnet import ResNet

__all__ = [
    "NetworkResponses",
    "Response",
    "layer_responses",
    "measure_responses",
    "responses_table",
]


@dataclass(frozen=True)
class Response:
    """One layer's response.

    Attributes:
        layer: Name of the batch norm whose output it is.
        std: Standard deviation over all its channels, pixels and images.
    """

    layer: str
    std: float


@dataclass(frozen=True)
class NetworkResponses:
    """The responses of one trained network."""

    network: str
    seed: int
    layers: tuple[Response, ...]


def measure_responses(
    output: Path, images: ImageSource, *, count: int, progress: Progress = SILENT
) -> tuple[NetworkResponses, ...]:
    """Measure the responses of every network a comparison has trained.

    Args:
        output: Directory of the comparison.
        images: Images to respond to.
        count: How many of them; the first are taken.
        progress: Listener.

    Returns:
        One entry for each network and seed, in the order of training.

    Raises:
        BundleError: There is no comparison in ``output``.
        CheckpointError: A checkpoint cannot be read.
        DataError: The images cannot be decoded.
    """
    measured = []
    comparison = Comparison.read(output / CURVES)
    spec = ImageSpec.from_json(comparison.data["image_spec"])
    for curve in comparison.curves:
        folder = run_directory(output, curve.network, curve.seed)
        layers = layer_responses(
            load_model(read_checkpoint(folder / CHECKPOINT)),
            images,
            spec,
            indices=range(min(count, len(images))),
            progress=progress,
        )
        measured.append(NetworkResponses(curve.network, curve.seed, layers))
    return tuple(measured)


def layer_responses(
    model: ResNet,
    images: ImageSource,
    spec: ImageSpec,
    *,
    indices: Sequence[int],
    progress: Progress = SILENT,
) -> tuple[Response, ...]:
    """Measure every layer's output after its batch norm, before ReLU or addition.

    Args:
        model: A network in evaluation mode; batch norms use their running statistics.
        images: Where the images come from.
        spec: Preprocessing.
        indices: Which images.
        progress: Listener.

    Returns:
        One response for each convolution of the main path, in the order of execution.

    Raises:
        DataError: There is no image, or too many cannot be decoded.
    """
    import torch

    if not indices:
        raise DataError(f"{images.path}: no image to measure responses with")
    sums: dict[str, tuple[float, float, int]] = {}
    hooks = [
        module.register_forward_hook(_adder(name, sums)) for name, module in _main_path_norms(model)
    ]
    try:
        with torch.inference_mode(), progress.task("responses", total=len(indices)) as task:
            for batch in ImageBatches(images, spec, 256, indices):
                model(torch.from_numpy(spec.to_input(batch.pixels)))
                task.advance(len(batch.indices))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(
        Response(name, max(squares / count - (total / count) ** 2, 0.0) ** 0.5)
        for name, (total, squares, count) in sums.items()
    )


def responses_table(measured: Sequence[NetworkResponses]) -> str:
    """Return a Markdown table of every network's mean response over its layers."""
    lines = ["| network | seed | layers | mean std of the responses |", "|---|---|---|---|"]
    lines += [
        f"| {one.network} | {one.seed} | {len(one.layers)} "
        f"| {mean(layer.std for layer in one.layers):.3f} |"
        for one in measured
    ]
    return "\n".join(lines) + "\n"


def _main_path_norms(model: ResNet) -> list[tuple[str, nn.Module]]:
    from torch import nn

    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and "downsample" not in name
    ]


def _adder(name: str, sums: dict[str, tuple[float, float, int]]) -> Any:
    """Return a hook that adds sum, sum of squares and number of a module's outputs to ``sums``."""

    def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        values = output.double()  # the difference of two large sums is taken in the end
        total, squares, count = sums.get(name, (0.0, 0.0, 0))
        sums[name] = (
            total + float(values.sum()),
            squares + float(values.square().sum()),
            count + values.numel(),
        )

    return add
