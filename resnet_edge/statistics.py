"""Paired statistics: how much accuracy a candidate loses, and how sure that is.

Reference and candidate see the same images, so only the images on which they differ in being right
carry information: ``lost`` (reference right, candidate wrong) and ``won`` (the reverse). The drop
is ``(lost - won) / n``; its confidence limits are Tango's score limits for paired proportions
(Statistics in Medicine 17, 1998, 891-908), which hold their level for small counts and for none,
where the usual normal interval collapses to a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Judgement",
    "Outcome",
    "Paired",
    "count_pairs",
    "drop_limit",
    "gate",
    "judge",
    "mcnemar",
    "mean_kl",
    "needed_images",
]

Outcome = Literal["pass", "fail", "inconclusive"]

Z_ONE_SIDED_95 = 1.6448536269514722
Z_TWO_SIDED_95 = 1.959963984540054
_MAX_IMAGES = 10_000_000


@dataclass(frozen=True)
class Paired:
    """The four-fold table of a paired comparison, as far as it matters.

    Attributes:
        n: Images seen by both.
        lost: Reference right, candidate wrong.
        won: Reference wrong, candidate right.
    """

    n: float
    lost: float
    won: float

    @property
    def drop(self) -> float:
        """Loss of accuracy as a fraction; negative for a gain."""
        return (self.lost - self.won) / self.n


def count_pairs(
    reference: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> Paired:
    """Compare two models' predictions on the same images.

    Args:
        reference: Logits, N x classes.
        logits: The candidate's, on the same images.
        labels: Class indices. Without labels every image whose class changes counts as lost: the
            drop cannot exceed the disagreement, whatever the labels are.
    """
    before, after = reference.argmax(1), logits.argmax(1)
    if labels is None:
        return Paired(len(logits), int((before != after).sum()), 0)
    right, still = before == labels, after == labels
    return Paired(len(logits), int((right & ~still).sum()), int((~right & still).sum()))


def drop_limit(counts: Paired, z: float, *, upper: bool) -> float:
    """Return Tango's score confidence limit of the drop, as a fraction.

    Args:
        counts: The comparison; n > 0.
        z: Normal quantile: 1.645 for a one-sided 95 % limit, 1.96 for a two-sided 95 % interval.
        upper: Upper or lower limit.
    """
    if not upper:  # mirror: exchanging lost and won turns the sign of the drop
        return -drop_limit(Paired(counts.n, counts.won, counts.lost), z, upper=True)
    low, high = counts.drop, 1.0
    for _ in range(100):  # the score falls from 0 at the estimate, so bisection finds -z
        middle = (low + high) / 2
        if _score(counts, middle) > -z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def gate(counts: Paired, max_drop: float) -> Outcome:
    """Judge a drop against the largest allowed one.

    Args:
        counts: The comparison.
        max_drop: As a fraction.

    Returns:
        ``pass`` only if the one-sided 95 % upper limit is within ``max_drop``, ``fail`` if the
        lower limit is beyond it, else ``inconclusive``.
    """
    if drop_limit(counts, Z_ONE_SIDED_95, upper=True) <= max_drop:
        return "pass"
    if drop_limit(counts, Z_ONE_SIDED_95, upper=False) > max_drop:
        return "fail"
    return "inconclusive"


@dataclass(frozen=True)
class Judgement:
    """What a paired comparison says of a budget.

    Attributes:
        outcome: Of the three-way gate.
        drop_points: Loss in percentage points.
        upper95: One-sided 95 % upper limit of it.
        needed_n: Images that would settle an inconclusive outcome; None if none would, or none
            are needed.
    """

    outcome: Outcome
    drop_points: float
    upper95: float
    needed_n: int | None


def judge(counts: Paired, max_drop: float, *, can_fail: bool = True) -> Judgement:
    """Hold a paired comparison against a budget.

    Args:
        counts: Of the comparison.
        max_drop: Largest allowed loss, in percentage points.
        can_fail: Without labels a disagreement bounds the loss from above but proves none: then
            a failure is inconclusive.
    """
    limit = max_drop / 100
    outcome = gate(counts, limit)
    if outcome == "fail" and not can_fail:
        outcome = "inconclusive"
    return Judgement(
        outcome=outcome,
        drop_points=100 * counts.drop,
        upper95=100 * drop_limit(counts, Z_ONE_SIDED_95, upper=True),
        needed_n=needed_images(counts, limit) if outcome == "inconclusive" else None,
    )


def needed_images(counts: Paired, max_drop: float) -> int | None:
    """Return how many images would settle the gate if the rates stay as observed.

    None if no reasonable number would, because the drop is about as large as allowed.
    """
    if gate(counts, max_drop) != "inconclusive":
        return int(counts.n)
    low, high = 1.0, 2.0
    while gate(_scaled(counts, high), max_drop) == "inconclusive":
        low, high = high, high * 2
        if counts.n * high > _MAX_IMAGES:
            return None
    while (high - low) * counts.n > 1:
        middle = (low + high) / 2
        if gate(_scaled(counts, middle), max_drop) == "inconclusive":
            low = middle
        else:
            high = middle
    return math.ceil(counts.n * high)


def mcnemar(counts: Paired) -> float:
    """Return the exact two-sided p-value of McNemar's test that nothing was lost or won."""
    discordant = int(counts.lost + counts.won)
    smaller = int(min(counts.lost, counts.won))
    if discordant == 0:
        return 1.0
    log_half = -discordant * math.log(2)
    tail = sum(
        math.exp(
            math.lgamma(discordant + 1)
            - math.lgamma(k + 1)
            - math.lgamma(discordant - k + 1)
            + log_half
        )
        for k in range(smaller + 1)
    )
    return min(1.0, 2 * tail)


def _scaled(counts: Paired, factor: float) -> Paired:
    return Paired(counts.n * factor, counts.lost * factor, counts.won * factor)


def _score(counts: Paired, drop: float) -> float:
    """Return Tango's score statistic for the hypothesis that the drop is ``drop`` (in [-1, 1])."""
    n, lost, won = counts.n, counts.lost, counts.won
    # Maximum-likelihood probability of `won` under the hypothesis: root of a q^2 + b q + c.
    a = 2 * n
    b = -lost - won + (2 * n - lost + won) * drop
    c = -won * drop * (1 - drop)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + drop * (1 - drop))
    difference = lost - won - n * drop
    if variance <= 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / math.sqrt(variance)


def mean_kl(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Return the mean KL divergence of the softmax from the reference's, in nats."""

    def log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
        shifted = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    p, q = log_softmax(reference), log_softmax(logits)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())
