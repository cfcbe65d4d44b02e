"""Signal to quantization noise, computed from a histogram without looking at the images again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.bundle.ranges_table import TensorRange
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.tensors import QMAX

__all__ = ["quantization_noise", "sqnr_db", "with_sqnr"]

_MOST_DB = 300.0


def quantization_noise(histogram: Histogram, amaxes: Sequence[float]) -> NDArray[Any]:
    """Return the mean squared error of int8 for each of several ranges.

    Rounding and clipping together: within a bucket of the histogram the values are taken as spread
    evenly, and the squared distance to the nearest of the 127 levels is integrated exactly. The
    one level that int8 has below ``-amax`` is left out.

    Args:
        histogram: At least one value.
        amaxes: Largest magnitudes to represent, positive.

    Returns:
        float64, one per range.
    """
    bounds, counts = _buckets(histogram)
    scales = np.asarray(amaxes, np.float64)[:, None] / QMAX
    steps = bounds[:, None, :] / scales
    levels = np.minimum(np.rint(steps), QMAX)
    low, high = steps - levels
    passed = levels[1] - levels[0]
    # In units of the scale: around one level the mean of r^2 from low to high; a bucket that
    # passes levels integrates 1/12 over each of them besides.
    within = (low * low + low * high + high * high) / 3
    across = passed / 12 + (high**3 - low**3) / 3
    mean = np.divide(across, steps[1] - steps[0], out=within, where=passed > 0) * scales**2
    return np.asarray(mean @ counts / counts.sum())


def sqnr_db(histogram: Histogram, amaxes: Sequence[float]) -> NDArray[Any]:
    """Return the ratio of mean square to `quantization_noise` in decibels, one per range.

    At most 300 dB, which is what a tensor that is zero throughout gets.
    """
    (low, high), counts = _buckets(histogram)
    signal = counts @ (low * low + low * high + high * high) / (3 * counts.sum())
    noise = quantization_noise(histogram, amaxes)
    if histogram.amax == 0.0:
        return np.full(len(noise), _MOST_DB)
    least = signal * 10 ** (-_MOST_DB / 10)
    return np.asarray(10 * np.log10(signal / np.maximum(noise, least)))


def with_sqnr(
    tensors: Mapping[str, TensorRange], histograms: Mapping[str, Histogram]
) -> dict[str, TensorRange]:
    """Return the ranges with the `sqnr_db` of every tensor under every estimator."""
    return {
        name: replace(
            found,
            sqnr=dict(
                zip(
                    found.estimates,
                    sqnr_db(histograms[name], list(found.estimates.values())).tolist(),
                    strict=True,
                )
            ),
        )
        for name, found in tensors.items()
    }


def _buckets(histogram: Histogram) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return lower and upper bounds (2 x buckets) and counts of the magnitudes that occur."""
    edges, below = histogram.cumulative()
    counts = np.diff(below)
    seen = counts > 0
    return np.stack([edges[:-1][seen], edges[1:][seen]]), counts[seen]
