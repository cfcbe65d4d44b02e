"""Range estimators: from a histogram to the largest magnitude INT8 should represent.

All read the same `Histogram`, all return ``amax`` > 0 with ``scale = amax / 127``.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.errors import CalibrationError
from resnet_edge.tensors import QMAX

__all__ = [
    "METHODS",
    "Method",
    "entropy",
    "entropy_tensorrt",
    "estimate",
    "minmax",
    "mse",
    "percentile",
]

Method = Literal["minmax", "percentile", "mse", "entropy", "entropy-tensorrt"]
METHODS: tuple[Method, ...] = get_args(Method)

_BINS = 2048
_LEVELS = 128  # magnitudes of a signed 8-bit number
_TENSORRT_BINS, _TENSORRT_LEVELS = 1024, QMAX
_TENSORRT_MOST_BINS = 8 * _TENSORRT_BINS
_FIRST_BATCH_PERCENT = 99.99
_NOTHING_SEEN = 1.0


def estimate(histogram: Histogram, method: Method, *, percent: float = 99.99) -> float:
    """Apply one estimator.

    Args:
        histogram: At least one value.
        method: Which one.
        percent: For ``percentile`` only.

    Returns:
        ``amax`` > 0; 1.0 for a tensor that is zero throughout, whose scale does not matter.

    Raises:
        CalibrationError: The histogram is empty.
    """
    if not histogram.total:
        raise CalibrationError("no value was collected", hint="calibrate with at least one image")
    if histogram.amax == 0.0:
        return _NOTHING_SEEN
    if method == "minmax":
        return minmax(histogram)
    if method == "percentile":
        return percentile(histogram, percent)
    if method == "mse":
        return mse(histogram)
    return entropy(histogram) if method == "entropy" else entropy_tensorrt(histogram)


def minmax(histogram: Histogram) -> float:
    """Return the largest magnitude seen, exactly: nothing is clipped."""
    return histogram.amax


def percentile(histogram: Histogram, percent: float) -> float:
    """Return the magnitude below which ``percent`` % of the values lie.

    Interpolated inside a bucket, so within 0.8 % of the exact quantile.
    """
    if not 0 < percent <= 100:
        raise CalibrationError(f"percentile {percent} is not in (0, 100]")
    edges, below = histogram.cumulative()
    # Where no value lies between two edges the lower one is meant, so that an outlier that is
    # just the share to clip is clipped.
    wanted = below[-1] * percent / 100
    upper = int(np.searchsorted(below, wanted, side="left"))
    value = float(np.interp(wanted, below[: upper + 1], edges[: upper + 1]))
    # More than `percent` % zeros would give a range of zero.
    return value if value > histogram.amax * 1e-6 else histogram.amax


def mse(histogram: Histogram) -> float:
    """Return the clipping magnitude with the smallest mean squared quantization error.

    Every bin edge from the 128th of 2,048 is a candidate, as in NVIDIA's pytorch-quantization.
    """
    counts, width = histogram.linear(_BINS)
    centers = np.arange(_BINS) + 0.5  # in bins, as everything below
    mass, moment = (np.concatenate([[0.0], np.cumsum(v)]) for v in (counts, counts * centers))
    levels = np.arange(QMAX + 1)
    candidates = np.arange(_LEVELS, _BINS + 1)
    scales = candidates[:, None] / QMAX
    # Level k holds the centres between k - 1/2 and k + 1/2 scales, the last one all above, too.
    edges = np.clip(np.ceil((levels - 0.5) * scales - 0.5), 0, _BINS).astype(np.int64)
    edges = np.concatenate([edges, np.full((len(candidates), 1), _BINS)], axis=1)
    values = levels * scales
    # sum of n (x - v)^2 over all bins, but for the sum of n x^2, which all candidates share
    errors = (values**2 * np.diff(mass[edges]) - 2 * values * np.diff(moment[edges])).sum(axis=1)
    return float(candidates[errors.argmin()] * width)


def entropy(histogram: Histogram) -> float:
    """Return the clipping magnitude with the smallest KL divergence (Migacz, GTC 2017, s7310).

    The form of NVIDIA's pytorch-quantization: 2,048 bins, 128 levels, the first bin replaced by
    the second so that the zeros behind a ReLU do not dominate; the last of equal minima wins.
    """
    counts, width = histogram.linear(_BINS)
    counts[0] = counts[1]
    if not counts.any():
        return histogram.amax
    divergences = kl_divergences(counts, _LEVELS)
    return float((_LEVELS + _last_argmin(divergences)) * width)


def entropy_tensorrt(histogram: Histogram) -> float:
    """Return the clipping magnitude by the entropy form NVIDIA documents for TensorRT.

    The source is ``closed/NVIDIA/documentation/calibration.md`` of the MLPerf inference results:
    equal bins without the first; 127 levels of equal width between 0 and the centre of a candidate
    bin, which itself belongs to the last level; the range is the centre of the best bin. Where the
    text leaves a choice:

    - *Bins.* 1,024 over the range of the first batch, their number doubled until later batches
      fit. For that range we take the magnitude that 99.99 % of all values stay below, and three
      doublings at most. A real first batch would let the order of the images and the batch size
      decide, as they do in TensorRT; the largest magnitude of all would let one outlier take away
      the resolution that all other values need.
    - *Outliers.* Folded into the candidate bin, but not into the level that stands for it, as on
      Migacz's slides. Read to the letter both contain them, and clipping costs nothing: the
      divergence is 0 after 127 bins, whatever the data.
    - *Empty bins.* Get nothing of their level, so a candidate that folds outliers into an empty
      bin is out. Bins above the largest magnitude, which the doubling appends, are no candidates.
    - *Candidates and ties.* From the 127th bin on, where every bin is a level; the last of equal
      minima wins, as in `entropy`.

    That a max-pool passes its output's range to its input is not a matter of the estimator: the
    placement gives both the same range.
    """
    ratio = histogram.amax / percentile(histogram, _FIRST_BATCH_PERCENT)
    bins = min(int(np.ceil(_TENSORRT_BINS * max(ratio, 1.0))), _TENSORRT_MOST_BINS)
    counts, width = histogram.linear(bins)
    counts[0] = 0.0
    if not counts.any():
        return histogram.amax
    ends = np.arange(_TENSORRT_LEVELS, bins + 1)
    # Bin j is of level k if its centre is: k (2 end - 1) <= 127 (2 j + 1), in half bins.
    halves = np.arange(_TENSORRT_LEVELS + 1)[None, :] * (2 * ends[:, None] - 1)
    edges = np.maximum(-((_TENSORRT_LEVELS - halves) // (2 * _TENSORRT_LEVELS)), 0)
    edges[:, -1] = ends
    best = _last_argmin(_divergences(counts, ends, edges))
    return float((ends[best] - 0.5) * width)


def kl_divergences(counts: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Return KL(P || Q) in nats for clipping after i bins, i = levels … len(counts).

    The i bins are reduced to ``levels`` equal groups; see `_divergences`.
    """
    ends = np.arange(levels, len(counts) + 1)
    edges = -(-np.arange(levels + 1)[None, :] * ends[:, None] // levels)  # ceil
    return _divergences(counts, ends, edges)


def _divergences(
    counts: NDArray[np.float64], ends: NDArray[np.int64], edges: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return KL(P || Q) in nats for clipping after each of ``ends`` bins.

    P is the first bins with everything beyond folded into the last of them; Q is the unfolded bins
    reduced to groups, each group's mass spread over its non-empty bins. A candidate that folds
    mass into an empty bin gets infinity. Within a group Q is constant, so prefix sums give every
    candidate in one step without expanding Q.

    Args:
        counts: The histogram.
        ends: Number of bins kept, one per candidate.
        edges: First bin of every group, and the end of the last; a row per candidate.
    """
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    entropy_terms = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])

    group_mass = np.diff(mass[edges], axis=1)
    group_filled = np.diff(filled[edges], axis=1)
    kept, total = mass[ends], mass[-1]
    outliers = total - kept
    last = counts[ends - 1]

    p_log_p = entropy_terms[ends] - _x_log_x(last) + _x_log_x(last + outliers)
    p_log_p = p_log_p / total - np.log(total)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(group_mass) - np.log(group_filled) - np.log(kept)[:, None]
    folded = group_mass.copy()
    folded[:, -1] += outliers
    p_log_q = np.where(group_mass > 0, folded * log_q, 0.0).sum(axis=1) / total
    result = p_log_p - p_log_q
    result[(last == 0) & (outliers > 0)] = np.inf
    result[kept == 0] = np.inf
    return np.asarray(result)


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.zeros_like(values, dtype=np.float64)
    positive = values > 0
    out[positive] = values[positive] * np.log(values[positive])
    return out


def _last_argmin(values: NDArray[np.float64]) -> int:
    return len(values) - 1 - int(np.argmin(values[::-1]))
