"""Learning curves of several networks under one recipe, as JSON and as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from resnet_edge.errors import ConfigError, DataError
from resnet_edge.files import read_json
from resnet_edge.schema import decode

__all__ = ["CURVES", "MEASURES", "PLOT", "Comparison", "Curve", "final_table", "run_directory"]

MEASURES = {
    "train_error": "percent wrong among the training images as they are trained on: augmented, "
    "batch norm on batch statistics, before the step's update; each value is a tenth of an epoch",
    "train_loss": "mean cross-entropy of the same predictions, in nats; each value is an epoch",
    "test_error": "percent wrong among all test images after an epoch: not augmented, batch norm "
    "on running statistics",
}
CURVES, PLOT = "curves.json", "curves.svg"


@dataclass(frozen=True)
class Curve:
    """How one network learnt, from one seed.

    Attributes:
        network: Name of the network, such as ``plain20``.
        seed: Of weights, order and augmentation.
        parameters: Number of trained weights.
        macs: Multiply-adds of one image.
        iterations: Steps done at the end of every epoch.
        train_loss: See ``MEASURES``; one value an epoch.
        train_error: See ``MEASURES``; several values an epoch, equally spaced.
        test_error: See ``MEASURES``; one value an epoch.
        seconds: Time of every epoch's training.
    """

    network: str
    seed: int
    parameters: int
    macs: int
    iterations: tuple[int, ...]
    train_loss: tuple[float, ...]
    train_error: tuple[float, ...]
    test_error: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def train_iterations(self) -> tuple[float, ...]:
        """Steps done at the end of the part of an epoch that each ``train_error`` is of."""
        count = len(self.train_error)
        return tuple(self.iterations[-1] * (i + 1) / count for i in range(count))

    @property
    def last_train_error(self) -> float:
        """Training error of the whole last epoch."""
        return mean(self.train_error[-(len(self.train_error) // len(self.iterations)) :])


@dataclass(frozen=True)
class Comparison:
    """Curves that can be compared: same data, same recipe, same budget.

    Attributes:
        command: What the user typed, or None.
        recipe: The train configuration but for architecture, shortcut and seed.
        data: Names and numbers of images.
        environment: Versions and machine.
        curves: One for each network and seed.
    """

    command: str | None
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    curves: tuple[Curve, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the meaning of the measures."""
        return {"measures": MEASURES, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Read what ``to_json`` returned.

        Raises:
            DataError: The file is of another kind.
            BundleError: The file is missing or not JSON.
        """
        value = read_json(path)
        try:
            return decode(cls, value, str(path), strict=False)
        except ConfigError as error:
            raise DataError(
                f"{path} does not hold the curves of an experiment: {error.message}",
                hint="pass the curves.json that an experiment wrote",
            ) from error

    def by_network(self) -> dict[str, list[Curve]]:
        """Return the curves of each network, one for each seed."""
        groups = defaultdict(list)
        for curve in self.curves:
            groups[curve.network].append(curve)
        return dict(groups)


def final_table(comparison: Comparison) -> str:
    """Return a Markdown table of the last epoch: mean over the seeds and every seed."""
    lines = [
        "| network | parameters | MACs, M | training loss | training error % | test error % |",
        "|---|---|---|---|---|---|",
    ]
    for network, curves in comparison.by_network().items():
        first = curves[0]
        cells = [
            _mean_and_all([c.train_loss[-1] for c in curves], digits=3),
            _mean_and_all([c.last_train_error for c in curves], digits=2),
            _mean_and_all([c.test_error[-1] for c in curves], digits=2),
        ]
        lines.append(
            f"| {network} | {first.parameters:,} | {first.macs / 1e6:.1f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _mean_and_all(values: Sequence[float], *, digits: int) -> str:
    text = f"**{mean(values):.{digits}f}**"
    if len(values) > 1:
        text += f" ({', '.join(f'{v:.{digits}f}' for v in values)})"
    return text


def run_directory(output: Path, network: str, seed: int) -> Path:
    """Return where a comparison keeps the run of this network and seed."""
    return output / f"{network}-seed{seed}"
