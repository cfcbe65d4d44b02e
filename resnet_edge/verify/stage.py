"""The verify stage: reference and candidate on the same images, and a three-way gate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.evaluate import run_all
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import TABLE
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.bundle.reference import Golden, require_classifier
from resnet_edge.errors import DataError
from resnet_edge.images.labels import resolve_labels
from resnet_edge.images.source import ImageSource
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.stage import layers_chosen_on
from resnet_edge.statistics import (
    Z_TWO_SIDED_95,
    Outcome,
    count_pairs,
    drop_limit,
    judge,
    mcnemar,
    mean_kl,
)
from resnet_edge.verify.candidate import Candidate, Executed
from resnet_edge.verify.reference_logits import reference_logits

__all__ = ["AccuracyResult", "Score", "verify"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """Accuracy of one model, in percent; None without labels.

    Attributes:
        top1: Images whose most likely class is right.
        top5: Images whose class is among the five most likely; None with five classes or fewer.
    """

    top1: float | None
    top5: float | None


@dataclass(frozen=True)
class AccuracyResult:
    """What the comparison showed.

    Attributes:
        n: Images compared.
        skipped: Images that could not be decoded.
        source: Where the reference logits come from: ``pytorch``, or ``onnx`` where PyTorch or
            the checkpoint is not at hand (the export proved both equal on the golden images).
        reference: Accuracy of the reference.
        candidate: Accuracy of the candidate.
        backend: Backend of the candidate.
        precision: Precision of the candidate.
        executed: What ran: the engine, or its graph in its place.
        drop_points: Reference minus candidate in percentage points; None without labels.
        drop_ci95: Two-sided 95 % interval of the drop; None without labels.
        drop_upper95: One-sided 95 % upper limit of the drop. Without labels it is the limit of
            the share of images on which the two disagree, which bounds any drop.
        agreement: Images on which both predict the same class, in percent.
        lost: Images only the reference gets right; without labels, those with another class.
        won: Images only the candidate gets right.
        mcnemar_p: p-value of McNemar's exact test; None without labels.
        mean_kl: Mean KL divergence of the softmax, in nats.
        max_drop: The gate, in points.
        outcome: ``pass``, ``fail`` or ``inconclusive``.
        needed_n: Images that would settle an inconclusive outcome; None if none would.
    """

    n: int
    skipped: int
    source: str
    reference: Score
    candidate: Score
    backend: str
    precision: str
    executed: Executed
    drop_points: float | None
    drop_ci95: tuple[float, float] | None
    drop_upper95: float
    agreement: float
    lost: int
    won: int
    mcnemar_p: float | None
    mean_kl: float
    max_drop: float
    outcome: Outcome
    needed_n: int | None

    @property
    def passed(self) -> bool:
        """Whether the gate is met."""
        return self.outcome == "pass"

    def to_json(self) -> dict[str, Any]:
        """Return the stable keys of ``verify --json``."""
        return {
            "n": self.n,
            "skipped": self.skipped,
            "reference": {"source": self.source, **vars(self.reference)},
            "candidate": {
                "backend": self.backend, "precision": self.precision, **vars(self.candidate)
            },
            "drop_points": self.drop_points,
            "drop_ci95": None if self.drop_ci95 is None else list(self.drop_ci95),
            "drop_upper95": self.drop_upper95,
            "agreement": self.agreement,
            "lost": self.lost,
            "won": self.won,
            "mcnemar_p": self.mcnemar_p,
            "mean_kl": self.mean_kl,
            "max_drop": self.max_drop,
            "executed": self.executed,
            "outcome": self.outcome,
            "needed_n": self.needed_n,
            "passed": self.passed,
        }  # fmt: skip


def verify(
    bundle: Bundle,
    candidate: Candidate,
    source: ImageSource | None,
    *,
    max_drop: float = 0.5,
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
) -> AccuracyResult:
    """Compare a candidate with the PyTorch reference on the same images.

    Args:
        bundle: Holds the reference.
        candidate: What to judge.
        source: Images that were not used for calibration; labels make it a comparison of top-1.
            Those that layers in FP16 were chosen on are left out. None takes the bundle's golden
            images, which are too few for a tight gate.
        max_drop: Largest allowed drop of top-1, in percentage points.
        checkpoint: The checkpoint, if it moved since the export.
        progress: Listener.

    Raises:
        ConfigError: The network has no classifier.
        DataError: The images overlap with the calibration images or do not fit the model.
    """
    require_classifier(bundle)
    if source is None:
        return _verify_golden(bundle, candidate, max_drop)
    spec, info = bundle.model.image_spec, bundle.model
    labels = resolve_labels(source, class_names=info.labels, num_classes=info.num_classes)
    keys = [source.key(i) for i in range(len(source))]
    _refuse_overlap(bundle, source, keys)
    indices = _not_chosen_on(bundle, source, keys)
    with candidate.open() as session:
        logits, kept, skipped = run_all(
            session, source, spec, indices=indices,
            label=f"verify {candidate.precision}", progress=progress,
        )  # fmt: skip
    if skipped:
        log.warning("%d images could not be decoded and were skipped", len(skipped))
    reference, origin = reference_logits(bundle, source, keys, kept, checkpoint, progress)
    return _compare(
        candidate, reference, logits, None if labels is None else labels[list(kept)],
        origin=origin, skipped=len(skipped), max_drop=max_drop,
    )  # fmt: skip


def _verify_golden(bundle: Bundle, candidate: Candidate, max_drop: float) -> AccuracyResult:
    golden = Golden.load(bundle)
    with candidate.open() as session:
        outputs = session.run_rows(bundle.model.image_spec.to_input(golden.pixels))
    logits = next(iter(outputs.values()))
    labels = golden.labels if (golden.labels >= 0).all() else None
    # The golden logits of a model that came as ONNX are the original ONNX model's.
    origin = "onnx" if bundle.model.architecture == "onnx" else "pytorch"
    return _compare(
        candidate, golden.logits, logits, labels, origin=origin, skipped=0, max_drop=max_drop
    )


def _compare(
    candidate: Candidate,
    reference: NDArray[np.float32],
    logits: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    *,
    origin: str,
    skipped: int,
    max_drop: float,
) -> AccuracyResult:
    n = len(logits)
    same = int((reference.argmax(1) == logits.argmax(1)).sum())
    counts = count_pairs(reference, logits, labels)
    judged = judge(counts, max_drop, can_fail=labels is not None)
    two_sided = [100 * drop_limit(counts, Z_TWO_SIDED_95, upper=up) for up in (False, True)]
    return AccuracyResult(
        n=n,
        skipped=skipped,
        source=origin,
        reference=_score(reference, labels),
        candidate=_score(logits, labels),
        backend=candidate.backend,
        precision=candidate.precision,
        executed=candidate.executed,
        drop_points=None if labels is None else judged.drop_points,
        drop_ci95=None if labels is None else (two_sided[0], two_sided[1]),
        drop_upper95=judged.upper95,
        agreement=100 * same / n,
        lost=int(counts.lost),
        won=int(counts.won),
        mcnemar_p=None if labels is None else mcnemar(counts),
        mean_kl=mean_kl(reference, logits),
        max_drop=max_drop,
        outcome=judged.outcome,
        needed_n=judged.needed_n,
    )


def _refuse_overlap(bundle: Bundle, source: ImageSource, keys: Sequence[str]) -> None:
    if TABLE not in bundle.names():
        return
    used = RangesTable.load(bundle.artifact(TABLE)).used
    overlap = sum(key in used for key in keys)
    if overlap:
        raise DataError(
            f"{overlap} of the {len(keys)} images in {source.path} were used for calibration",
            hint="verify on images the calibration has not seen",
        )


def _not_chosen_on(bundle: Bundle, source: ImageSource, keys: Sequence[str]) -> list[int]:
    """Return the images that ``quantize --max-drop`` did not choose layers on."""
    chosen_on = layers_chosen_on(bundle)
    left = [i for i, key in enumerate(keys) if key not in chosen_on]
    if not left:
        raise DataError(
            f"the layers in FP16 were chosen on every image in {source.path}",
            hint="verify on other images",
        )
    if len(left) < len(keys):
        log.warning(
            "%d of %d images are left out: the layers in FP16 were chosen on them",
            len(keys) - len(left), len(keys),
        )  # fmt: skip
    return left


def _score(logits: NDArray[np.float32], labels: NDArray[np.int64] | None) -> Score:
    if labels is None:
        return Score(None, None)
    top1 = 100 * float((logits.argmax(1) == labels).mean())
    if logits.shape[1] <= 5:
        return Score(top1, None)
    best = np.argpartition(-logits, 5, axis=1)[:, :5]
    return Score(top1, 100 * float((best == labels[:, None]).any(axis=1).mean()))
