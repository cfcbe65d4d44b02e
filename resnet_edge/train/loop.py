"""The training loop: epochs, learning rate, evaluation, and the state a resume restores."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import ConfigError
from resnet_edge.files import write_bytes
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.resnet_config import Shortcut
from resnet_edge.models.zoo import create
from resnet_edge.train.augment import augment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from resnet_edge.models.resnet import ResNet

__all__ = ["RESUME", "Run", "Split", "TrainConfig"]

RESUME = "resume.pt"
_PARTS = 10  # of an epoch, whose training accuracies are recorded one by one


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        arch: Name in the zoo.
        width: Multiplier on the architecture's channels.
        shortcut: Option A, B, C or D in place of the architecture's own.
        epochs: Passes over the training images.
        epoch_images: Images of one epoch, drawn afresh for each; None takes all.
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
    width: float = 1.0
    shortcut: Shortcut | None = None
    epochs: int = 30
    epoch_images: int | None = None
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    pad: int = 2
    flip: bool = True
    label_smoothing: float = 0.0
    seed: int = 0
    amp: bool = False
    device: str = "auto"

    @property
    def network(self) -> str:
        """The architecture and what was changed of it, for example ``plain18-w0.25``."""
        width = "" if self.width == 1.0 else f"-w{self.width:g}"
        return f"{self.arch}{'' if self.shortcut is None else f'-{self.shortcut}'}{width}"


@dataclass
class Split:
    """Decoded images and their labels."""

    pixels: Tensor  # uint8 N x H x W x C
    labels: Tensor  # int64 N


class Run:
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

        torch.manual_seed(config.seed)
        model = create(
            config.arch,
            num_classes=classes,
            in_channels=spec.channels,
            width=config.width,
            shortcut=config.shortcut,
        )
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
        return max(1, min(images, self.config.epoch_images or images) // self.config.batch_size)

    def resume(self) -> bool:
        """Restore the state after the last complete epoch, if there is one."""
        import torch

        path = self.output / RESUME
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise ConfigError(
                f"{path} is damaged, the run cannot be resumed",
                hint=f"remove {path} to start again",
            ) from error
        if state["identity"] != self.identity:
            raise ConfigError(
                f"{self.output} holds an unfinished run of another configuration",
                hint="choose another --output, or remove the directory",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        self.records = json.loads(state["records"])
        return True

    def train_epoch(self, data: Split, task: Any) -> dict[str, Any]:
        """Run one epoch; order and augmentation depend only on seed and epoch number."""
        import torch
        from torch.nn.functional import cross_entropy

        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.epoch)
        size, steps = self.config.batch_size, self.steps(len(data.labels))
        order = torch.randperm(len(data.labels), generator=generator)
        self.model.train()
        started, loss_sum, seen = time.perf_counter(), 0.0, 0
        hits: list[int] = []
        for step in range(steps):
            rate = self._learning_rate(self.epoch * steps + step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            index = order[step * size : (step + 1) * size]
            pixels = augment(
                data.pixels[index],
                pad=self.config.pad,
                flip=self.config.flip,
                generator=generator,
            )
            target = data.labels[index].to(self.device)
            logits = self._forward(pixels)
            loss = cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss_sum += float(loss.detach()) * len(index)
            hits.append(int((logits.detach().argmax(1) == target).sum()))
            seen += len(index)
            task.advance(status=f"epoch {self.epoch + 1} loss {loss_sum / seen:.3f}")
        count = min(_PARTS, steps)
        parts = [hits[steps * i // count : steps * (i + 1) // count] for i in range(count)]
        return {
            "epoch": self.epoch + 1,
            "iterations": (self.epoch + 1) * steps,
            "lr": rate,
            "train_loss": loss_sum / seen,
            "train_top1": 100.0 * sum(hits) / seen,
            "train_top1_parts": [100.0 * sum(part) / (len(part) * len(index)) for part in parts],
            "seconds": round(time.perf_counter() - started, 1),
        }

    def evaluate(self, data: Split) -> dict[str, float]:
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
            "records": json.dumps(self.records),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.output / RESUME, buffer.getvalue())

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
