"""The bake-off: try what could help, measure it on held-out images, keep the best.

Three choices, each made by the mean KL divergence of the softmax from the float model's on images
that were not calibrated on: equalization (on a small calibration first, so that a full pass is run
for the winner only), the range estimator (all of them from that one pass, the two best of a first
round on all images), and bias correction. A change has to earn its place: it is kept only if it
lowers the divergence by a tenth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.bundle.ranges_table import RangesTable, TensorRange
from resnet_edge.calibrate.collect import Collected, Partial, collect
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.calibrate.ranges import METHODS, Method, estimate
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.adjustable import AdjustableGraph
from resnet_edge.quantize.bias import correct_biases
from resnet_edge.quantize.equalize import equalize
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.probe import PROBE_BATCH, channel_maxima, layer_errors
from resnet_edge.quantize.score import GraphScore, HeldOut, Inputs

__all__ = ["SAFE", "BakeOff", "Trial", "bake_off", "split", "tables_of"]

# These keep the whole near twice one estimator's cost.
_SCORED = 32  # held-out images of the final choice
_FINALISTS = 2
# So many from _ENOUGH calibration images on, and a share of them below, see `_share`.
_ENOUGH = 96
_FIRST_LOOK = 8  # images of the small calibration, for equalization
_FIRST_ROUND = 8  # held-out images on which equalization and all estimators are compared
_PROBED = 16  # images for layer errors
_BETTER = 0.9
SAFE: Method = "mse"  # what the others have to beat


@dataclass(frozen=True)
class Trial:
    """One thing that was tried.

    Attributes:
        equalized: With cross-layer equalization.
        method: Range estimator.
        bias_corrected: With bias correction.
        score: Against the float model on held-out images.
        images: Number of those images.
        chosen: Whether this became the result.
    """

    equalized: bool
    method: str
    bias_corrected: bool
    score: GraphScore
    images: int
    chosen: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "equalized": self.equalized,
            "method": self.method,
            "bias_corrected": self.bias_corrected,
            "agreement": self.score.agreement,
            "kl": self.score.kl,
            "top1": self.score.top1,
            "images": self.images,
            "chosen": self.chosen,
        }


@dataclass(frozen=True)
class BakeOff:
    """What won.

    Attributes:
        model: The float model to quantize: as given, or equalized and bias-corrected.
        changed: Whether it differs from the given one.
        table: The winning ranges; recipe, hashes and images are not filled in.
        method: The winning estimator.
        trials: Everything that was tried, in order.
        collected: The full calibration pass.
    """

    model: ModelProto
    changed: bool
    table: RangesTable
    method: str
    trials: tuple[Trial, ...]
    collected: Collected


def split(keys: Sequence[str], calibrate: int, choose: int) -> tuple[list[int], list[int]]:
    """Split images by content hash into those to calibrate on and those to choose on.

    The smallest hashes go to *choose*, at most a quarter of all, so that adding images moves few
    from one part to the other.
    """
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    choose = min(choose, max(1, len(keys) // 4))
    return sorted(order[choose:][:calibrate]), sorted(order[:choose])


def bake_off(
    model: ModelProto,
    source: ImageSource,
    spec: ImageSpec,
    *,
    calibrate_on: Sequence[int],
    choose_on: Sequence[int],
    labels: NDArray[np.int64] | None = None,
    percent: float = 99.99,
    partial: Partial | None = None,
    progress: Progress = SILENT,
) -> BakeOff:
    """Choose equalization, estimator and bias correction for a model.

    Args:
        model: Float graph.
        source: Where both sets of images come from.
        spec: Preprocessing.
        calibrate_on: Images to collect ranges on.
        choose_on: Other images, to score on.
        labels: Class index of every image of the source, to report top-1; None without.
        percent: Of the percentile estimator.
        partial: Where an interrupted full pass is kept.
        progress: Listener.

    Raises:
        CalibrationError: Activations are not finite.
        DataError: Too many images cannot be decoded.
    """
    held_out = HeldOut.of(model, source, spec, list(choose_on)[:_SCORED], labels)
    few = held_out.first(_share(_FIRST_ROUND, calibrate_on))
    trials: list[Trial] = []
    base, equalized = _choose_equalization(
        model, source, spec, calibrate_on, few, trials, percent, progress
    )
    tensors = place(base.graph).tensors
    collected = collect(
        base, tensors, source, spec, indices=calibrate_on, partial=partial, progress=progress
    )
    tables = tables_of(collected.histograms, percent)
    best = _choose_method(base, equalized, tables, few, held_out, trials, progress)
    table = tables[best.method]
    some = list(calibrate_on)[: _share(_PROBED, calibrate_on)]
    probed = Inputs.read(source, spec, some, batch_size=PROBE_BATCH)
    errors = layer_errors(base, place(base.graph), table, probed)
    corrected = correct_biases(base, errors)
    with AdjustableGraph(corrected, table) as graph:
        score = held_out.judge(graph.logits(held_out.inputs, table))
    trials.append(Trial(equalized, best.method, True, score, len(held_out)))
    keep_correction = score.kl < _BETTER * best.score.kl
    winner = trials[-1] if keep_correction else best
    return BakeOff(
        model=corrected if keep_correction else base,
        changed=equalized or keep_correction,
        table=table,
        method=winner.method,
        trials=tuple(Trial(**{**vars(t), "chosen": t is winner}) for t in trials),
        collected=collected,
    )


def _share(count: int, calibrate_on: Sequence[int]) -> int:
    """Return how many images of ``count`` a calibration on these deserves."""
    return max(1, count * min(len(calibrate_on), _ENOUGH) // _ENOUGH)


def tables_of(
    histograms: Mapping[str, Histogram], percent: float, methods: Sequence[Method] = METHODS
) -> dict[str, RangesTable]:
    """Return every estimator's table, each with all estimates beside its own."""
    estimates = {
        name: {str(m): estimate(h, m, percent=percent) for m in methods}
        for name, h in histograms.items()
    }
    return {
        method: RangesTable(
            {
                name: TensorRange(estimates[name][method], h.minimum, h.maximum, estimates[name])
                for name, h in histograms.items()
            },
            {}, "", (), 0,
        )
        for method in methods
    }  # fmt: skip


def _choose_equalization(
    model: ModelProto,
    source: ImageSource,
    spec: ImageSpec,
    calibrate_on: Sequence[int],
    look: HeldOut,
    trials: list[Trial],
    percent: float,
    progress: Progress,
) -> tuple[ModelProto, bool]:
    count = _share(_FIRST_LOOK, calibrate_on)
    few = list(calibrate_on)[:: max(1, len(calibrate_on) // count)][:count]
    placement = place(model.graph)
    inputs = {i.name for i in model.graph.input}
    maxima = channel_maxima(
        model,
        [t for t in placement.engine_points if t not in inputs],
        Inputs.read(source, spec, few, batch_size=PROBE_BATCH),
    )
    candidates = (model, equalize(model, maxima).model)
    scores = []
    for position, candidate in enumerate(candidates):
        points = place(candidate.graph).engine_points
        collected = collect(candidate, points, source, spec, indices=few, progress=progress)
        table = tables_of(collected.histograms, percent, [SAFE])[SAFE]
        with AdjustableGraph(candidate, table) as graph:
            scores.append(look.judge(graph.logits(look.inputs, table)))
        method = f"{SAFE} on {len(few)} images"
        trials.append(Trial(bool(position), method, False, scores[-1], len(look)))
    helps = scores[1].kl < _BETTER * scores[0].kl
    return (candidates[1], True) if helps else (model, False)


def _choose_method(
    model: ModelProto,
    equalized: bool,
    tables: Mapping[str, RangesTable],
    few: HeldOut,
    held_out: HeldOut,
    trials: list[Trial],
    progress: Progress,
) -> Trial:
    """Compare all estimators on a few images, and the best of them on all."""
    with (
        progress.task("compare estimators", total=len(tables) + _FINALISTS) as task,
        AdjustableGraph(model, tables[SAFE]) as graph,
    ):

        def rank(methods: Sequence[str], images: HeldOut) -> list[Trial]:
            compared = []
            for method in methods:
                score = images.judge(graph.logits(images.inputs, tables[method]))
                compared.append(Trial(equalized, method, False, score, len(images)))
                task.advance(status=f"{method} KL {score.kl:.2g}")
            trials.extend(compared)
            return sorted(compared, key=lambda t: (t.score.kl, t.method != SAFE))

        first = rank(list(tables), few)
        return rank([trial.method for trial in first[:_FINALISTS]], held_out)[0]
