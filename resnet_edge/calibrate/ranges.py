"""Range estimators: from a histogram to the largest magnitude INT8 should represent.

All read the same `Histogram`, all return ``amax`` > 0 with ``scale = amax / 127``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from resnet_edge.errors import CalibrationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnet_edge.calibrate.histogram import Histogram

__all__ = ["METHODS", "Method", "entropy", "estimate", "minmax", "mse", "percentile"]

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_BINS = 2048
_LEVELS = 128  # magnitudes of a signed 8-bit number
_QMAX = 127
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
    return mse(histogram) if method == "mse" else entropy(histogram)


def minmax(histogram: Histogram) -> float:
    """Return the largest magnitude seen, exactly: nothing is clipped."""
    return histogram.amax


def percentile(histogram: Histogram, percent: float) -> float:
    """Return the magnitude below which ``percent`` % of the values lie.

    Interpolated inside a bucket, so within 0.8 % of the exact quantile.
    """
    import numpy as np

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
    import numpy as np

    counts, width = histogram.linear(_BINS)
    centers = (np.arange(_BINS) + 0.5) * width
    candidates = np.arange(_LEVELS, _BINS + 1) * width
    best, best_error = candidates[-1], np.inf
    for chunk in np.array_split(candidates, 16):  # 16 chunks keep the matrices small
        scale = chunk[:, None] / _QMAX
        steps = np.minimum(np.rint(centers[None] / scale), _QMAX)
        errors = ((steps * scale - centers[None]) ** 2) @ counts
        if errors.min() < best_error:
            best, best_error = chunk[errors.argmin()], errors.min()
    return float(best)


def entropy(histogram: Histogram) -> float:
    """Return the clipping magnitude with the smallest KL divergence (Migacz, GTC 2017, s7310).

    The form of NVIDIA's pytorch-quantization: 2,048 bins, 128 levels, the first bin replaced by
    the second so that the zeros behind a ReLU do not dominate; the last of equal minima wins.
    """
    import numpy as np

    counts, width = histogram.linear(_BINS)
    counts[0] = counts[1]
    if not counts.any():
        return histogram.amax
    divergences = kl_divergences(counts, _LEVELS)
    best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return float((_LEVELS + best) * width)


def kl_divergences(counts: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Return KL(P || Q) in nats for clipping after i bins, i = levels … len(counts).

    P is the first i bins with everything beyond folded into the last of them; Q is the unfolded
    bins reduced to ``levels`` equal groups, each group's mass spread over its non-empty bins.
    A candidate that folds mass into an empty bin gets infinity. Within a group Q is constant, so
    prefix sums give every candidate in one step without expanding Q.
    """
    import numpy as np

    size = len(counts)
    ends = np.arange(levels, size + 1)
    edges = -(-np.arange(levels + 1)[None, :] * ends[:, None] // levels)  # ceil
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
    import numpy as np

    out = np.zeros_like(values, dtype=np.float64)
    positive = values > 0
    out[positive] = values[positive] * np.log(values[positive])
    return out
