"""Train several networks under one recipe and collect their learning curves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from resnet_edge.experiment.curves import CURVES, PLOT, Comparison, Curve, run_directory
from resnet_edge.experiment.pictures import plot_curves
from resnet_edge.files import read_json, write_json
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.zoo import architecture
from resnet_edge.progress import SILENT, Progress
from resnet_edge.report.plots import require_matplotlib
from resnet_edge.train.loop import TrainConfig
from resnet_edge.train.stage import train

__all__ = ["Cost", "compare", "cost"]

log = logging.getLogger(__name__)

_VARIED = ("arch", "shortcut", "seed")  # what the networks of a comparison differ in


@dataclass(frozen=True)
class Cost:
    """What a network costs: trained weights, and multiply-adds of one image."""

    parameters: int
    macs: int


def compare(
    networks: Sequence[TrainConfig],
    seeds: int,
    output: Path,
    *,
    images: ImageSource,
    test: ImageSource,
    spec: ImageSpec,
    command: str | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Train every network from every seed; run the same again to go on after an interruption.

    All networks are trained from one seed before the next seed begins, and curves and plot are
    written after every network, so that an interrupted comparison already compares.

    Args:
        networks: One recipe with different architectures or shortcuts.
        seeds: Runs of each network, from seeds 0, 1, ….
        output: Directory for ``curves.json``, ``curves.svg`` and one directory a run.
        images: Labelled training images.
        test: Labelled images measured after every epoch.
        spec: Preprocessing.
        command: What the user typed, recorded.
        progress: Listener.

    Raises:
        DataError: Images are missing or unlabelled.
        ConfigError: ``output`` holds other runs.
        BackendUnavailableError: matplotlib is not installed.
    """
    require_matplotlib()
    runs = [replace(network, seed=seed) for seed in range(seeds) for network in networks]
    logs: list[dict[str, Any]] = []
    for config in runs:
        log.info("%s, seed %d: run %d of %d", config.network, config.seed, len(logs) + 1, len(runs))
        result = train(
            images,
            config,
            run_directory(output, config.network, config.seed),
            spec=spec,
            test=test,
            command=command,
            progress=progress,
        )
        logs.append(read_json(result.log))
        comparison = _collect(runs, logs, spec, command)
        write_json(output / CURVES, comparison.to_json())
        plot_curves(comparison, output / PLOT)
        _say_time_left(comparison, runs[len(logs) :], spec)
    return comparison


def cost(config: TrainConfig, spec: ImageSpec, classes: int) -> Cost:
    """Return parameters and multiply-adds of the network that ``config`` trains."""
    from resnet_edge.models.resnet import count_macs, without_weights

    model = without_weights(
        architecture(
            config.arch,
            num_classes=classes,
            in_channels=spec.channels,
            width=config.width,
            shortcut=config.shortcut,
        )
    )
    shape = (spec.channels, *spec.crop)
    return Cost(sum(p.numel() for p in model.parameters()), count_macs(model, shape))


def _collect(
    runs: Sequence[TrainConfig],
    logs: Sequence[dict[str, Any]],
    spec: ImageSpec,
    command: str | None,
) -> Comparison:
    curves = []
    for config, history in zip(runs, logs, strict=False):
        epochs = history["epochs"]
        price = cost(config, spec, history["data"]["classes"])
        curves.append(
            Curve(
                network=config.network,
                seed=config.seed,
                parameters=price.parameters,
                macs=price.macs,
                iterations=tuple(e["iterations"] for e in epochs),
                train_loss=tuple(round(e["train_loss"], 5) for e in epochs),
                train_error=tuple(round(100 - v, 4) for e in epochs for v in e["train_top1_parts"]),
                test_error=tuple(round(100 - e["test_top1"], 4) for e in epochs),
                seconds=tuple(e["seconds"] for e in epochs),
            )
        )
    return Comparison(
        command=command,
        recipe={k: v for k, v in asdict(runs[0]).items() if k not in _VARIED},
        data={**logs[0]["data"], "image_spec": spec.to_json()},
        environment=logs[0]["environment"],
        curves=tuple(curves),
    )


def _say_time_left(done: Comparison, rest: Sequence[TrainConfig], spec: ImageSpec) -> None:
    if not rest:
        return
    speed = sum(sum(c.seconds) for c in done.curves) / sum(c.macs for c in done.curves)
    ahead = sum(cost(config, spec, done.data["classes"]).macs for config in rest)
    log.info("%d runs left, about %.0f minutes", len(rest), ahead * speed / 60)
