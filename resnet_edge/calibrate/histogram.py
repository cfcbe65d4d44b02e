"""One histogram for all range estimators: streaming, exact, mergeable, of constant size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.errors import CalibrationError

__all__ = ["BUCKETS", "Histogram", "bucket_edges"]

# Sign, exponent and 7 mantissa bits of a float32: every bucket is narrower than 0.8 % of its value.
BUCKETS = 1 << 16
_POSITIVE = BUCKETS // 2
_FIRST_NON_FINITE = 0x7F80
_CHUNK = 1 << 15  # values counted at a time: with their int64 keys they stay in a core's cache


def bucket_edges() -> NDArray[np.float64]:
    """Return the 32,769 edges of the buckets of non-negative values, ascending.

    Bucket ``k`` holds the magnitudes from edge ``k`` up to, not including, edge ``k + 1``. The
    edges from 0x7F80 on are not finite and are set to the largest float32.
    """
    bits = np.arange(_POSITIVE + 1, dtype=np.uint64).astype(np.uint32) << np.uint32(16)
    edges = np.full(_POSITIVE + 1, np.finfo(np.float32).max, dtype=np.float64)
    edges[:_FIRST_NON_FINITE] = bits[:_FIRST_NON_FINITE].view(np.float32)
    return edges


class Histogram:
    """Counts of float32 values by the upper 16 bits of their pattern, with exact extremes.

    The result does not depend on the order of the values or on how they were cut into updates,
    needs no range in advance, and two histograms add up. Counts are int64.

    Attributes:
        minimum: Smallest value seen; +inf before the first.
        maximum: Largest value seen; -inf before the first.
    """

    def __init__(self) -> None:
        # Neighbours are often equal, zeros above all, and an increment has to wait for the one
        # before it in the same place; so values go to two tables by turns.
        self._tables: NDArray[np.int64] = np.zeros((2, BUCKETS), dtype=np.int64)
        self.minimum = float("inf")
        self.maximum = float("-inf")

    @property
    def counts(self) -> NDArray[np.int64]:
        """Counts per bucket, int64; the upper half holds negative values."""
        counts: NDArray[np.int64] = self._tables.sum(axis=0)
        return counts

    @property
    def total(self) -> int:
        """Number of values seen."""
        return int(self._tables.sum())

    @property
    def amax(self) -> float:
        """Largest magnitude seen, exactly."""
        return max(abs(self.minimum), abs(self.maximum)) if self.total else 0.0

    def update(self, values: NDArray[np.float32]) -> None:
        """Count more values.

        Raises:
            CalibrationError: One of them is NaN or infinite; nothing is counted then.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        keys = _Keys(min(_CHUNK, flat.size))
        low, high = self.minimum, self.maximum
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            # Adding zero turns -0.0 into 0.0, so that the extremes do not depend on the order.
            least, most = float(part.min()) + 0.0, float(part.max()) + 0.0
            if not (math.isfinite(least) and math.isfinite(most)):
                for done in range(0, start, _CHUNK):
                    keys.add(self._tables, flat[done : done + _CHUNK], -1)
                broken = np.count_nonzero(~np.isfinite(flat))
                raise CalibrationError(f"{broken} of {flat.size} values are NaN or infinite")
            keys.add(self._tables, part, 1)
            low, high = min(low, least), max(high, most)
        self.minimum, self.maximum = low, high

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts and extremes to this one."""
        self._tables += other._tables
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def sparse(self) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Return the buckets that are not empty, and their counts."""
        counts = self.counts
        buckets = np.flatnonzero(counts)
        return buckets.astype(np.uint16), counts[buckets]

    @classmethod
    def from_sparse(
        cls, buckets: NDArray[Any], counts: NDArray[Any], minimum: float, maximum: float
    ) -> Histogram:
        """Return the histogram whose ``sparse``, ``minimum`` and ``maximum`` these are."""
        histogram = cls()
        histogram._tables[0, buckets] = counts
        histogram.minimum, histogram.maximum = float(minimum), float(maximum)
        return histogram

    def magnitudes(self) -> NDArray[np.int64]:
        """Return counts of ``|x|``, one per non-negative bucket (32,768)."""
        counts = self.counts
        return counts[:_POSITIVE] + counts[_POSITIVE:]

    def cumulative(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return edges and the number of magnitudes below each edge, as float64.

        Between two edges the counts are taken as spread evenly. The edge above the largest value
        is moved down to that value, so that nothing is placed where nothing was seen.
        """
        counts = self.magnitudes()
        last = int(np.flatnonzero(counts)[-1]) if counts.any() else 0
        edges = bucket_edges()[: last + 2]
        edges[-1] = max(self.amax, np.nextafter(edges[-2], np.inf))
        below = np.concatenate([[0.0], np.cumsum(counts[: last + 1], dtype=np.float64)])
        return edges, below

    def linear(self, bins: int) -> tuple[NDArray[Any], float]:
        """Resample the magnitudes to equal bins from 0 to the largest value.

        Returns:
            Counts per bin (float64, their sum is ``total``) and the width of a bin.
        """
        edges, below = self.cumulative()
        width = float(edges[-1]) / bins
        counts = np.diff(np.interp(np.arange(bins + 1) * width, edges, below))
        counts[-1] += below[-1] - counts.sum()  # rounding of the last edge
        return counts, width


class _Keys:
    """Where each value of a chunk is counted, in one buffer for all chunks.

    A key is int64: the upper 16 bits of a float32 in its lowest 16 bits, above them the number of
    the table, which is written once. ``ufunc.at`` adds in place; ``bincount`` would convert,
    search for the largest and clear a table of its own every time, and takes twice as long.
    """

    def __init__(self, size: int) -> None:
        self._keys = np.zeros(size, dtype=np.intp)
        self._keys[1::2] = BUCKETS
        lowest, self._upper = (0, 1) if np.little_endian else (-1, 0)
        self._lowest = self._keys.view(np.uint16)[lowest :: self._keys.itemsize // 2]

    def add(self, tables: NDArray[np.int64], values: NDArray[np.float32], step: int) -> None:
        """Add ``step`` to the count of every value."""
        self._lowest[: values.size] = values.view(np.uint16)[self._upper :: 2]
        np.add.at(tables.reshape(-1), self._keys[: values.size], step)
