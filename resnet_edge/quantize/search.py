"""Meet an accuracy budget: give the most sensitive layers back to FP16, as few as possible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.bundle.ranges_table import Ranges
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import engine_graph
from resnet_edge.quantize.score import run_graph
from resnet_edge.quantize.sensitivity import LayerSensitivity
from resnet_edge.statistics import (
    Outcome,
    count_pairs,
    judge,
)

__all__ = ["Budget", "Comparison", "Found", "Labelled", "Step", "compare", "search"]

Metric = Literal["top1", "agreement"]


@dataclass(frozen=True)
class Budget:
    """What INT8 may cost.

    Attributes:
        max_drop: Percentage points.
        metric: ``top1`` counts lost right answers against won ones; ``agreement`` counts every
            image whose class changes, and needs no labels.
    """

    max_drop: float
    metric: Metric


@dataclass(frozen=True)
class Labelled:
    """Images with the float model's answers and, for ``top1``, their labels.

    Attributes:
        inputs: The images in batches; gone through once for every graph.
        logits: The float model's logits.
        labels: Class indices, None without.
    """

    inputs: Iterable[NDArray[Any]]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class Comparison:
    """A paired comparison against the budget.

    Attributes:
        n: Images.
        drop_points: Loss in percentage points.
        upper95: One-sided 95 % upper limit of it.
        outcome: Of the three-way gate.
        needed_n: Images that would settle an inconclusive outcome.
    """

    n: int
    drop_points: float
    upper95: float
    outcome: Outcome
    needed_n: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Step:
    """One graph that was tried.

    Attributes:
        kept: How many layers of the ranking were kept in FP16.
        comparison: What it cost on the images chosen on.
    """

    kept: int
    comparison: Comparison


@dataclass(frozen=True)
class Found:
    """Where the search ended.

    Attributes:
        keep_float: Layers that stay in FP16, most sensitive first.
        met: Whether the budget is met on the images chosen on. If not, they are too few: not even
            the float model passes, and no layer is kept.
        steps: Everything that was tried, by number of layers.
        macs_share: Share of multiply-adds that stays in FP16.
    """

    keep_float: tuple[str, ...]
    met: bool
    steps: tuple[Step, ...]
    macs_share: float

    @property
    def expected_slowdown(self) -> float:
        """Time over that of full INT8 if multiply-adds alone set it and FP16 runs at half speed."""
        return 1.0 + self.macs_share


def search(
    model: ModelProto,
    ranges: Ranges,
    ranking: Sequence[LayerSensitivity],
    images: Labelled,
    budget: Budget,
    *,
    progress: Progress = SILENT,
) -> Found:
    """Find the shortest prefix of the ranking that must stay in FP16.

    The prefix doubles until the budget is met, then is bisected; every step is measured, and the
    gate is the upper confidence limit, so the answer does not rest on luck.
    """
    steps: dict[int, Step] = {}

    def met(kept: int) -> bool:
        if kept not in steps:
            names = [layer.name for layer in ranking[:kept]]
            comparison = compare(model, ranges, images, budget, keep_float=names)
            steps[kept] = Step(kept, comparison)
            task.advance(
                status=f"{kept} layers in FP16: drop {comparison.drop_points:+.2f}, "
                f"limit {comparison.upper95:.2f}"
            )
        return steps[kept].comparison.outcome == "pass"

    with progress.task("search") as task:
        low, high = -1, 0
        settled = met(0) or met(len(ranking))  # in float nothing differs
        while settled and not met(high):
            low, high = high, min(len(ranking), max(1, 2 * high))
        while settled and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if met(middle) else (middle, high)
    return Found(
        keep_float=tuple(layer.name for layer in ranking[:high]),
        met=settled,
        steps=tuple(steps[kept] for kept in sorted(steps)),
        macs_share=sum(layer.macs_share for layer in ranking[:high]),
    )


def compare(
    model: ModelProto,
    ranges: Ranges,
    images: Labelled,
    budget: Budget,
    *,
    keep_float: Sequence[str],
) -> Comparison:
    """Run the Q/DQ graph with some layers left in float and judge it against the budget."""
    placement = place(model.graph, keep_float=keep_float)
    if placement.weighted:
        graph = engine_graph(model, placement, ranges, weights="rounded")
        logits = run_graph(graph, images.inputs, optimise="float")
    else:
        logits = images.logits  # nothing is quantized
    labels = None if budget.metric == "agreement" else images.labels
    counts = count_pairs(images.logits, logits, labels)
    judged = judge(counts, budget.max_drop)
    return Comparison(
        n=int(counts.n),
        drop_points=judged.drop_points,
        upper95=judged.upper95,
        outcome=judged.outcome,
        needed_n=judged.needed_n,
    )
