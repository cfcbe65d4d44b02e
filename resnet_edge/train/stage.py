"""The train stage: reproducible and resumable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.device.machine import describe_machine
from resnet_edge.errors import ConfigError, DataError
from resnet_edge.files import read_json, sha256_json, write_json
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.labels import resolve_labels
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.checkpoint import save_checkpoint
from resnet_edge.progress import SILENT, Progress
from resnet_edge.train.loop import RESUME, Run, Split, TrainConfig

__all__ = ["CHECKPOINT", "TrainConfig", "TrainResult", "train"]

log = logging.getLogger(__name__)

CHECKPOINT, _LOG = "checkpoint.safetensors", "log.json"


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes:
        checkpoint: The weights after the last epoch.
        log: JSON with configuration, environment and one record per epoch.
        train_top1: Percent on the training images as seen, augmented, in the last epoch.
        test_top1: Percent on the test images, None without any.
        excluded: Training images left out because they are in ``exclude``.
    """

    checkpoint: Path
    log: Path
    train_top1: float
    test_top1: float | None
    excluded: int


def train(
    images: ImageSource,
    config: TrainConfig,
    output: Path,
    *,
    spec: ImageSpec,
    test: ImageSource | None = None,
    exclude: Sequence[ImageSource] = (),
    command: str | None = None,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train from scratch, or go on where an interrupted run of the same configuration stopped.

    Args:
        images: Labelled training images.
        config: The recipe.
        output: Directory for ``checkpoint.safetensors``, ``log.json`` and, until the run is
            complete, ``resume.pt``.
        spec: Preprocessing; recorded in the checkpoint.
        test: Labelled images measured after every epoch; never trained on.
        exclude: Images that must not be trained on, found by content.
        command: What the user typed, recorded in the log.
        progress: Listener.

    Raises:
        DataError: Images are missing or unlabelled.
        ConfigError: ``output`` holds a run of another configuration.
    """
    import torch

    device = torch.device(_device(config.device))
    banned = {source.key(i) for source in exclude for i in range(len(source))}
    keep = [i for i in range(len(images)) if not banned or images.key(i) not in banned]
    if not keep:
        raise DataError("every training image is in an excluded set", hint="check --exclude")
    names = next((s.class_names for s in (images, test, *exclude) if s and s.class_names), None)
    training, classes = _load(images, spec, keep, names, progress)
    testing = None
    if test is not None:
        testing, _ = _load(test, spec, range(len(test)), names, progress, classes)
    if names is not None and len(names) != classes:
        raise DataError(f"{len(names)} class names for {classes} classes")

    identity = _identity(config, spec, images, keep)
    if (finished := _finished(output, identity, len(images) - len(keep))) is not None:
        log.info("%s already holds this run, finished", output)
        return finished
    run = Run(config, spec, classes, device, output, identity)
    if run.resume():
        log.info("resuming after epoch %d of %d", run.epoch, config.epochs)
    history = _log_header(run, images, test, len(keep), command)
    with progress.task("train", total=(config.epochs - run.epoch) * run.steps(len(keep))) as task:
        while run.epoch < config.epochs:
            record = run.train_epoch(training, task)
            if testing is not None:
                record |= run.evaluate(testing)
            run.finish_epoch(record)
            write_json(output / _LOG, history)
            log.info("%s", _epoch_line(record, config.epochs))
    last = run.records[-1]
    write_json(output / _LOG, history)
    save_checkpoint(
        output / CHECKPOINT,
        run.model,
        name=config.network,
        image_spec=spec,
        labels=names,
        provenance={k: history[k] for k in ("command", "config", "environment", "data")}
        | {"result": {k: last[k] for k in last if k.endswith("top1")}},
    )
    (output / RESUME).unlink(missing_ok=True)
    return _result(output, last, len(images) - len(keep))


def _finished(output: Path, identity: str, excluded: int) -> TrainResult | None:
    """Return the result of a complete run of the same identity, None if there is no complete run.

    Raises:
        ConfigError: The complete run is another one.
    """
    if not (output / CHECKPOINT).exists() or (output / RESUME).exists():
        return None
    history = read_json(output / _LOG)
    if not isinstance(history, dict) or history.get("identity") != identity:
        raise ConfigError(
            f"{output} holds a finished run of another configuration",
            hint="choose another --output, or remove the directory",
        )
    return _result(output, history["epochs"][-1], excluded)


def _result(output: Path, last: dict[str, Any], excluded: int) -> TrainResult:
    return TrainResult(
        checkpoint=output / CHECKPOINT,
        log=output / _LOG,
        train_top1=last["train_top1"],
        test_top1=last.get("test_top1"),
        excluded=excluded,
    )


def _epoch_line(record: dict[str, Any], epochs: int) -> str:
    test = f"{record['test_top1']:.2f} %" if "test_top1" in record else "-"
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['train_loss']:.4f}  "
        f"train {record['train_top1']:.2f} %  test {test}"
    )


def _load(
    source: ImageSource,
    spec: ImageSpec,
    indices: Sequence[int],
    names: tuple[str, ...] | None,
    progress: Progress,
    classes: int | None = None,
) -> tuple[Split, int]:
    import torch

    if source.labels is None:
        raise DataError(
            f"{source.path} has no labels",
            hint="train on class-per-folder images or on an IDX pair with its label file",
        )
    count = classes or (len(names) if names else int(source.labels.max()) + 1)
    labels = resolve_labels(source, class_names=names, num_classes=count)
    assert labels is not None  # the source has labels, checked above
    parts: list[NDArray[np.uint8]] = []
    kept: list[int] = []
    with progress.task(f"read {source.path.name}", total=len(indices)) as task:
        for batch in ImageBatches(source, spec, 512, indices):
            parts.append(batch.pixels)
            kept += batch.indices
            task.advance(len(batch.indices))
    pixels = torch.from_numpy(np.concatenate(parts))
    return Split(pixels, torch.from_numpy(labels[kept])), count


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("PyTorch sees no CUDA device", hint="use --device cpu")
    return name


def _identity(
    config: TrainConfig, spec: ImageSpec, images: ImageSource, keep: Sequence[int]
) -> str:
    return sha256_json(
        {
            "config": asdict(config),
            "spec": spec.to_json(),
            "images": len(keep),
            "first": images.key(keep[0]),
            "last": images.key(keep[-1]),
        }
    )


def _log_header(
    run: Run, images: ImageSource, test: ImageSource | None, used: int, command: str | None
) -> dict[str, Any]:
    import torch

    return {
        "identity": run.identity,
        "command": command,
        "config": asdict(run.config),
        "data": {
            "train": images.path.name,
            "train_images": used,
            "test": None if test is None else test.path.name,
            "test_images": None if test is None else len(test),
            "classes": run.model.config.num_classes,
        },
        "environment": {
            "torch": torch.__version__,
            "machine": describe_machine(),
            "device": str(run.device),
        },
        "epochs": run.records,
    }
