"""Train a ResNet or its plain twin, reproducibly and resumably."""

from __future__ import annotations

import logging
import os
import platform
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from resnet_edge.artifacts import atomic_path, read_json, sha256_json, write_json
from resnet_edge.data import ImageBatches, resolve_labels
from resnet_edge.errors import ConfigError, DataError
from resnet_edge.models.checkpoint import save_checkpoint
from resnet_edge.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from resnet_edge.data import ImageSource
    from resnet_edge.imaging import ImageSpec
    from resnet_edge.models.resnet import ResNet
    from resnet_edge.progress import Progress

__all__ = ["TrainConfig", "TrainResult", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        arch: Name in the zoo.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Peak learning rate of SGD with Nesterov momentum 0.9: linear warm-up over the first
            epoch, then a cosine to zero.
        weight_decay: L2 penalty, on all parameters as in the paper.
        pad: Pixels of zero padding before the random crop; 0 switches the crop off.
        flip: Mirror half of the images.
        label_smoothing: Share of the target spread over all classes.
        seed: Of weights, order and augmentation.
        amp: Compute in bfloat16 where PyTorch's autocast allows it.
        device: ``cpu``, ``cuda`` or ``auto``.
    """

    arch: str = "resnet20"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    pad: int = 2
    flip: bool = True
    label_smoothing: float = 0.0
    seed: int = 0
    amp: bool = False
    device: str = "auto"


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


@dataclass
class _Split:
    pixels: Tensor  # uint8 N x H x W x C
    labels: Tensor  # int64 N


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
    names = next((s.class_names for s in (images, test, *exclude) if s and s.class_names), None)
    training, classes = _load(images, spec, keep, names, progress)
    testing = None
    if test is not None:
        testing, _ = _load(test, spec, range(len(test)), names, progress, classes)
    if names is not None and len(names) != classes:
        raise DataError(f"{len(names)} class names for {classes} classes")

    run = _Run(
        config, spec, classes, device, output, identity=_identity(config, spec, images, keep)
    )
    if run.resume():
        log.info("resuming after epoch %d of %d", run.epoch, config.epochs)
    history = _log_header(run, images, test, len(keep), command)
    with progress.task("train", total=(config.epochs - run.epoch) * run.steps(len(keep))) as task:
        while run.epoch < config.epochs:
            record = run.train_epoch(training, task)
            if testing is not None:
                record |= run.evaluate(testing)
            history["epochs"] = [*run.records, record]
            run.finish_epoch(record)
            write_json(output / "log.json", history)
            log.info(
                "epoch %d/%d  loss %.4f  train %.2f %%  test %s",
                run.epoch,
                config.epochs,
                record["train_loss"],
                record["train_top1"],
                f"{record['test_top1']:.2f} %" if testing is not None else "-",
            )
    last = run.records[-1]
    save_checkpoint(
        output / "checkpoint.safetensors",
        run.model,
        name=config.arch,
        image_spec=spec,
        labels=names,
        provenance={k: history[k] for k in ("command", "config", "environment", "data")}
        | {"result": {k: last[k] for k in last if k.endswith("top1")}},
    )
    (output / "resume.pt").unlink(missing_ok=True)
    return TrainResult(
        checkpoint=output / "checkpoint.safetensors",
        log=output / "log.json",
        train_top1=last["train_top1"],
        test_top1=last.get("test_top1"),
        excluded=len(images) - len(keep),
    )


class _Run:
    """Model, optimizer and position of one run; everything that a resume restores."""

    def __init__(
        self,
        config: TrainConfig,
        spec: ImageSpec,
        classes: int,
        device: torch.device,
        output: Path,
        identity: str,
    ) -> None:
        import torch

        from resnet_edge.models.zoo import create

        torch.manual_seed(config.seed)
        model = create(config.arch, num_classes=classes, in_channels=spec.channels)
        self.model: ResNet = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=config.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=config.weight_decay,
        )
        self.config, self.spec, self.device = config, spec, device
        self.output, self.identity = output, identity
        self.epoch = 0
        self.records: list[dict[str, Any]] = []

    def steps(self, images: int) -> int:
        """Return steps per epoch; an incomplete last batch is left out."""
        return max(1, images // self.config.batch_size)

    def resume(self) -> bool:
        """Restore the state after the last complete epoch, if there is one."""
        import torch

        path = self.output / "resume.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            raise ConfigError(
                f"{self.output} holds an unfinished run of another configuration",
                hint="choose another --output, or remove the directory",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        self.records = read_json(self.output / "log.json")["epochs"][: self.epoch]
        return True

    def train_epoch(self, data: _Split, task: Any) -> dict[str, Any]:
        """Run one epoch; order and augmentation depend only on seed and epoch number."""
        import torch
        from torch.nn.functional import cross_entropy

        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.epoch)
        size, steps = self.config.batch_size, self.steps(len(data.labels))
        order = torch.randperm(len(data.labels), generator=generator)
        self.model.train()
        started, loss_sum, correct, seen = time.perf_counter(), 0.0, 0, 0
        for step in range(steps):
            rate = self._learning_rate(self.epoch * steps + step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            index = order[step * size : (step + 1) * size]
            pixels = _augment(data.pixels[index], self.config, generator)
            target = data.labels[index].to(self.device)
            logits = self._forward(pixels)
            loss = cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss_sum += float(loss.detach()) * len(index)
            correct += int((logits.detach().argmax(1) == target).sum())
            seen += len(index)
            task.advance(status=f"epoch {self.epoch + 1} loss {loss_sum / seen:.3f}")
        return {
            "epoch": self.epoch + 1,
            "iterations": (self.epoch + 1) * steps,
            "lr": rate,
            "train_loss": loss_sum / seen,
            "train_top1": 100.0 * correct / seen,
            "seconds": round(time.perf_counter() - started, 1),
        }

    def evaluate(self, data: _Split) -> dict[str, float]:
        """Measure loss and top-1 on images without augmentation."""
        import torch
        from torch.nn.functional import cross_entropy

        self.model.eval()
        loss, correct = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(data.labels), 256):
                target = data.labels[start : start + 256].to(self.device)
                logits = self._forward(data.pixels[start : start + 256])
                loss += float(cross_entropy(logits, target, reduction="sum"))
                correct += int((logits.argmax(1) == target).sum())
        return {
            "test_loss": loss / len(data.labels),
            "test_top1": 100.0 * correct / len(data.labels),
        }

    def finish_epoch(self, record: dict[str, Any]) -> None:
        """Store the state, so that a killed run loses at most one epoch."""
        import torch

        self.epoch += 1
        self.records.append(record)
        state = {
            "identity": self.identity,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(self.output / "resume.pt") as temporary:
            torch.save(state, temporary)

    def _learning_rate(self, step: int, steps_per_epoch: int) -> float:
        import math

        if step < steps_per_epoch:
            return self.config.lr * (step + 1) / steps_per_epoch
        rest = (self.config.epochs - 1) * steps_per_epoch
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (step - steps_per_epoch) / rest))

    def _forward(self, pixels: Tensor) -> Tensor:
        import torch

        x = torch.from_numpy(self.spec.to_input(pixels.numpy())).to(
            self.device, memory_format=torch.channels_last
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            logits: Tensor = self.model(x)
        return logits.float()


def _augment(pixels: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Shift every image by a random crop of its padded self and mirror half of them."""
    import torch

    count, height, width, channels = pixels.shape
    if config.pad:
        padded = pixels.new_zeros(count, height + 2 * config.pad, width + 2 * config.pad, channels)
        padded[:, config.pad : -config.pad, config.pad : -config.pad] = pixels
        shift = torch.randint(0, 2 * config.pad + 1, (2, count, 1), generator=generator)
        rows = (shift[0] + torch.arange(height))[:, :, None]
        columns = (shift[1] + torch.arange(width))[:, None, :]
        pixels = padded[torch.arange(count)[:, None, None], rows, columns]
    if config.flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
    return pixels


def _load(
    source: ImageSource,
    spec: ImageSpec,
    indices: Sequence[int],
    names: tuple[str, ...] | None,
    progress: Progress,
    classes: int | None = None,
) -> tuple[_Split, int]:
    import numpy as np
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
    return _Split(pixels, torch.from_numpy(labels[kept])), count


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
    run: _Run, images: ImageSource, test: ImageSource | None, used: int, command: str | None
) -> dict[str, Any]:
    import torch

    return {
        "command": command,
        "config": asdict(run.config),
        "data": {
            "train": images.path.name,
            "train_images": used,
            "test": None if test is None else test.path.name,
            "test_images": None if test is None else len(test),
        },
        "environment": {
            "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} logical CPUs",
            "device": str(run.device),
        },
        "epochs": run.records,
    }
