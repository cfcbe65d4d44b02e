"""The bake-off: try what could help, measure it on held-out images, keep the best.

Three choices, each made by the mean KL divergence of the softmax from the float model's on images
that were not calibrated on: equalization (on a small calibration first, so that a full pass is run
for the winner only), the range estimator (all of them from that one pass, the two best of a first
round on all images), and bias correction. A change has to earn its place: it is kept only if it
lowers the divergence by a tenth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.bundle.ranges_table import Ranges, TensorRange
from resnet_edge.calibrate.collect import Collected, Partial, collect
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.calibrate.ranges import METHODS, Method, estimate
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.bias import correct_biases
from resnet_edge.quantize.equalize import equalize
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.probe import PROBE_BATCH, channel_maxima, layer_errors
from resnet_edge.quantize.score import GraphScore, HeldOut, Inputs
from resnet_edge.quantize.variable_scales import VariableScaleGraph

__all__ = ["SAFE", "FoundRanges", "Trial", "bake_off", "ranges_of", "split"]

# These keep the whole near twice one estimator's cost.
_SCORED = 32  # held-out images of the final choice
_FINALISTS = 2
# So many from _ENOUGH calibration images on, and a share of them below.
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
class FoundRanges:
    """Ranges, and the model that they belong to.

    Attributes:
        model: The float model to quantize: as given, or equalized and bias-corrected.
        changed: Whether it differs from the given one.
        ranges: Of its tensors.
        method: The estimator that gave them.
        trials: Everything that a bake-off tried, in order; empty without one.
        collected: The full calibration pass.
    """

    model: ModelProto
    changed: bool
    ranges: Ranges
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


def ranges_of(
    histograms: Mapping[str, Histogram], percent: float, methods: Sequence[Method] = METHODS
) -> dict[str, Ranges]:
    """Return every estimator's ranges, each with all estimates beside its own."""
    estimates = {
        name: {str(m): estimate(h, m, percent=percent) for m in methods}
        for name, h in histograms.items()
    }
    return {
        method: {
            name: TensorRange(estimates[name][method], h.minimum, h.maximum, estimates[name])
            for name, h in histograms.items()
        }
        for method in methods
    }


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
) -> FoundRanges:
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
    contest = _BakeOff(source, spec, tuple(calibrate_on), held_out, percent, progress)
    base, equalized, looks = contest.equalization(model)
    tensors = place(base.graph).tensors
    collected = collect(
        base, tensors, source, spec, indices=calibrate_on, partial=partial, progress=progress
    )
    candidates = ranges_of(collected.histograms, percent)
    compared = contest.estimators(base, equalized, candidates)
    best = min(compared[-_FINALISTS:], key=_rank)
    ranges = candidates[best.method]
    corrected, correction = contest.bias_correction(base, best, ranges)
    keep_correction = correction.score.kl < _BETTER * best.score.kl
    winner = correction if keep_correction else best
    return FoundRanges(
        model=corrected if keep_correction else base,
        changed=equalized or keep_correction,
        ranges=ranges,
        method=winner.method,
        trials=tuple(replace(t, chosen=t is winner) for t in (*looks, *compared, correction)),
        collected=collected,
    )


@dataclass(frozen=True)
class _BakeOff:
    """What all trials of one bake-off share.

    Attributes:
        source: Where the images come from.
        spec: Preprocessing.
        calibrate_on: Images to collect ranges on.
        held_out: Other images, with the float model's answers.
        percent: Of the percentile estimator.
        progress: Listener.
    """

    source: ImageSource
    spec: ImageSpec
    calibrate_on: tuple[int, ...]
    held_out: HeldOut
    percent: float
    progress: Progress

    def share(self, count: int) -> int:
        """Return how many images of ``count`` this number of calibration images deserves."""
        return max(1, count * min(len(self.calibrate_on), _ENOUGH) // _ENOUGH)

    @property
    def few(self) -> HeldOut:
        """The held-out images of the first round."""
        return self.held_out.first(self.share(_FIRST_ROUND))

    def equalization(self, model: ModelProto) -> tuple[ModelProto, bool, list[Trial]]:
        """Return the model, equalized where that helps, whether it is, and both trials."""
        count = self.share(_FIRST_LOOK)
        few = list(self.calibrate_on[:: max(1, len(self.calibrate_on) // count)][:count])
        inputs = {i.name for i in model.graph.input}
        maxima = channel_maxima(
            model,
            [t for t in place(model.graph).engine_points if t not in inputs],
            Inputs.read(self.source, self.spec, few, batch_size=PROBE_BATCH),
        )
        candidates = (model, equalize(model, maxima).model)
        plain, equalized = (self._look(candidate, few) for candidate in candidates)
        method, n = f"{SAFE} on {len(few)} images", len(self.few)
        trials = [Trial(False, method, False, plain, n), Trial(True, method, False, equalized, n)]
        helps = equalized.kl < _BETTER * plain.kl
        return candidates[helps], helps, trials

    def _look(self, model: ModelProto, images: Sequence[int]) -> GraphScore:
        """Score a model with ranges from a few images."""
        points = place(model.graph).engine_points
        collected = collect(
            model, points, self.source, self.spec, indices=images, progress=self.progress
        )
        ranges = ranges_of(collected.histograms, self.percent, [SAFE])[SAFE]
        with VariableScaleGraph(model, ranges) as graph:
            return self.few.judge(graph.logits(self.few.inputs, ranges))

    def estimators(
        self, model: ModelProto, equalized: bool, candidates: Mapping[str, Ranges]
    ) -> list[Trial]:
        """Compare all estimators on a few images, then the best of them on all."""
        with (
            self.progress.task("compare estimators", len(candidates) + _FINALISTS) as task,
            VariableScaleGraph(model, candidates[SAFE]) as graph,
        ):

            def compare(methods: Sequence[str], images: HeldOut) -> list[Trial]:
                compared = []
                for method in methods:
                    score = images.judge(graph.logits(images.inputs, candidates[method]))
                    compared.append(Trial(equalized, method, False, score, len(images)))
                    task.advance(status=f"{method} KL {score.kl:.2g}")
                return compared

            first = compare(list(candidates), self.few)
            finalists = [trial.method for trial in sorted(first, key=_rank)[:_FINALISTS]]
            return [*first, *compare(finalists, self.held_out)]

    def bias_correction(
        self, model: ModelProto, best: Trial, ranges: Ranges
    ) -> tuple[ModelProto, Trial]:
        """Return the model with corrected biases, and its trial."""
        some = self.calibrate_on[: self.share(_PROBED)]
        probed = Inputs.read(self.source, self.spec, some, batch_size=PROBE_BATCH)
        corrected = correct_biases(model, layer_errors(model, place(model.graph), ranges, probed))
        with VariableScaleGraph(corrected, ranges) as graph:
            score = self.held_out.judge(graph.logits(self.held_out.inputs, ranges))
        return corrected, replace(best, bias_corrected=True, score=score)


def _rank(trial: Trial) -> tuple[float, bool]:
    """Order trials, the best first; among equals the safe estimator."""
    return trial.score.kl, trial.method != SAFE
