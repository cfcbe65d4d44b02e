"""Score quantized graphs on held-out images against the float model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession, Optimise
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.statistics import mean_kl

__all__ = ["GraphScore", "HeldOut", "Inputs", "run_graph"]


@dataclass(frozen=True)
class Inputs:
    """Decoded images that turn into network inputs batch by batch, as often as needed.

    Attributes:
        pixels: uint8 N x H x W x C batches; a quarter of the size of the inputs.
        spec: Preprocessing.
        indices: Position of every image in its source.
    """

    pixels: tuple[NDArray[np.uint8], ...]
    spec: ImageSpec
    indices: tuple[int, ...]

    @classmethod
    def read(
        cls, source: ImageSource, spec: ImageSpec, indices: Sequence[int], *, batch_size: int = 4
    ) -> Inputs:
        """Decode the given images."""
        batches = list(ImageBatches(source, spec, batch_size, indices))
        kept = tuple(i for batch in batches for i in batch.indices)
        return cls(tuple(batch.pixels for batch in batches), spec, kept)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for batch in self.pixels:
            yield self.spec.to_input(batch)

    def first(self, count: int) -> Inputs:
        """Return the batches that hold the first ``count`` images, rounded up to whole batches."""
        batches = -(-count // len(self.pixels[0]))
        kept = sum(len(batch) for batch in self.pixels[:batches])
        return Inputs(self.pixels[:batches], self.spec, self.indices[:kept])


def run_graph(
    model: ModelProto, inputs: Iterable[NDArray[Any]], *, optimise: Optimise
) -> NDArray[np.float32]:
    """Run a graph over batches and return all logits."""
    with OnnxRuntimeSession(model, optimise=optimise) as session:
        rows = [next(iter(session.run_rows(array).values())) for array in inputs]
    return np.concatenate(rows)


@dataclass(frozen=True)
class GraphScore:
    """How closely a quantized graph follows the float model.

    Attributes:
        agreement: Images with the same class, in percent.
        kl: Mean KL divergence of the softmax, in nats.
        top1: Images with the right class, in percent; None without labels.
    """

    agreement: float
    kl: float
    top1: float | None = None


@dataclass(frozen=True)
class HeldOut:
    """Images that were not calibrated on, with the float model's answers.

    Attributes:
        inputs: The images.
        logits: The float model's logits.
        labels: Class indices; None without.
    """

    inputs: Inputs
    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @classmethod
    def of(
        cls,
        model: ModelProto,
        source: ImageSource,
        spec: ImageSpec,
        indices: Sequence[int],
        labels: NDArray[np.int64] | None = None,
    ) -> HeldOut:
        """Run the float model on held-out images; ``labels`` are those of the whole source."""
        inputs = Inputs.read(source, spec, indices)
        known = None if labels is None else labels[list(inputs.indices)]
        return cls(inputs, run_graph(model, inputs, optimise="all"), known)

    def first(self, count: int) -> HeldOut:
        """Return the first ``count`` images, rounded up to whole batches."""
        inputs = self.inputs.first(count)
        n = len(inputs.indices)
        return HeldOut(inputs, self.logits[:n], None if self.labels is None else self.labels[:n])

    def score(self, graph: ModelProto) -> GraphScore:
        """Run a quantized graph, its Q/DQ pairs as written, and compare."""
        return self.judge(run_graph(graph, self.inputs, optimise="float"))

    def judge(self, logits: NDArray[np.float32]) -> GraphScore:
        """Compare a quantized model's logits on these images with the float model's."""
        same = float((logits.argmax(1) == self.logits.argmax(1)).mean())
        right = None if self.labels is None else float((logits.argmax(1) == self.labels).mean())
        return GraphScore(
            100 * same, mean_kl(self.logits, logits), None if right is None else 100 * right
        )
