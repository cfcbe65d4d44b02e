from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resnet_edge.calibrate.histogram import BUCKETS, Histogram, bucket_edges
from resnet_edge.errors import CalibrationError

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
EDGES = bucket_edges()
FIRST_NON_FINITE = 0x7F80
CHUNK = 1 << 15  # values counted at a time
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = arrays(np.float32, st.integers(1, 60), elements=FLOATS)


def histogram(*updates: Any) -> Histogram:
    result = Histogram()
    for values in updates:
        result.update(np.asarray(values, dtype=np.float32))
    return result


def state(h: Histogram) -> tuple[bytes, bytes]:
    """Everything a histogram holds, bit for bit but for the sign of a zero."""
    return h.counts.tobytes(), struct.pack("<dd", h.minimum + 0.0, h.maximum + 0.0)


@given(values=VALUES, cuts=st.lists(st.integers(0, 60), max_size=6), seed=st.integers(0, 99))
def test_neither_order_nor_cutting_into_updates_changes_anything(
    values: np.ndarray[Any, Any], cuts: list[int], seed: int
) -> None:
    shuffled = np.random.default_rng(seed).permutation(values)
    assert state(histogram(*np.split(shuffled, sorted(cuts)))) == state(histogram(values))


@given(parts=st.lists(VALUES, min_size=1, max_size=4))
def test_merging_histograms_equals_one_pass(parts: list[np.ndarray[Any, Any]]) -> None:
    merged = Histogram()
    for part in reversed(parts):
        merged.merge(histogram(part))
    assert state(merged) == state(histogram(np.concatenate(parts)))


@given(values=VALUES)
def test_every_value_is_counted_in_the_bucket_that_contains_it(
    values: np.ndarray[Any, Any],
) -> None:
    h = histogram(values)
    counts = h.magnitudes()
    assert counts.sum() == h.total == len(values)
    assert h.counts[BUCKETS // 2 :].sum() == np.signbit(values).sum()
    expected = np.histogram(np.abs(values).astype(np.float64), EDGES[: FIRST_NON_FINITE + 1])[0]
    assert np.array_equal(counts[:FIRST_NON_FINITE], expected)


@given(values=VALUES)
def test_extremes_are_exact(values: np.ndarray[Any, Any]) -> None:
    h = histogram(values)
    assert (h.minimum, h.maximum) == (values.min(), values.max())
    assert h.amax == np.abs(values).max()


@pytest.mark.parametrize("order", [(0.0, -0.0), (-0.0, 0.0)])
@pytest.mark.parametrize("cut", [0, 1])
def test_a_zero_extreme_has_no_sign(order: tuple[float, float], cut: int) -> None:
    h = histogram(order[:cut], order[cut:])
    assert (str(h.minimum), str(h.maximum)) == ("0.0", "0.0")


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(1,), (2, 3, 4)])
def test_nan_and_infinity_are_refused_and_nothing_is_counted(
    bad: float, shape: tuple[int, ...]
) -> None:
    h = histogram([1.0, -2.0])
    before = state(h)
    values = np.ones(shape, np.float32)
    values.flat[-1] = bad
    with pytest.raises(CalibrationError, match=f"1 of {values.size} values are NaN or infinite"):
        h.update(values)
    assert state(h) == before


@pytest.mark.parametrize("position", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 7, 3 * CHUNK - 1])
def test_a_batch_of_several_chunks_is_taken_back_whole(position: int) -> None:
    h = histogram([1.0, -2.0])
    before = state(h)
    values = np.random.default_rng(0).normal(0, 100, 3 * CHUNK).astype(np.float32)
    values[position] = np.nan
    with pytest.raises(CalibrationError, match=f"1 of {3 * CHUNK} values are NaN or infinite"):
        h.update(values)
    assert h.total == 2
    assert state(h) == before
    sound = np.delete(values, position)
    h.update(sound)
    assert state(h) == state(histogram([1.0, -2.0], sound))


def test_a_nan_with_any_payload_is_refused() -> None:
    for bits in (0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFC00000):
        with pytest.raises(CalibrationError):
            histogram(np.array([bits], np.uint32).view(np.float32))


def test_two_to_the_25_equal_values_are_counted_exactly() -> None:
    block = np.ones(1 << 22, np.float32)  # float32 counters stop at 2 ** 24
    h = histogram(*[block] * 8)
    assert h.total == 1 << 25
    assert np.count_nonzero(h.counts) == 1
    assert h.counts.dtype == np.int64


def test_counts_go_beyond_32_bits() -> None:
    h = histogram([3.0])
    for _ in range(40):
        h.merge(h)
    assert h.total == 1 << 40
    counts, _ = h.linear(2048)
    assert counts.sum() == 1 << 40


def test_a_bucket_is_narrower_than_0_8_percent_of_its_values() -> None:
    first_normal = int(np.searchsorted(EDGES, np.finfo(np.float32).smallest_normal))
    finite = EDGES[: FIRST_NON_FINITE + 1]
    widths = np.diff(finite)
    assert (widths > 0).all()
    assert (widths / finite[:-1].clip(min=SMALLEST))[first_normal:].max() < 0.008
    assert EDGES[0] == 0.0
    assert EDGES[FIRST_NON_FINITE] == LARGEST


@pytest.mark.parametrize(
    "value", [0.0, -0.0, SMALLEST, -SMALLEST, 1000 * SMALLEST, 2.0**-126, 1.0, LARGEST, -LARGEST]
)
def test_every_kind_of_number_is_counted_alone(value: float) -> None:
    h = histogram([value])
    assert (h.total, h.minimum, h.maximum, h.amax) == (1, value, value, abs(value))
    edges, below = h.cumulative()
    assert below[-1] == 1
    assert edges[-1] == pytest.approx(abs(value), rel=1e-12, abs=SMALLEST)
    assert (np.diff(edges) > 0).all()


def test_both_zeros_are_the_magnitude_zero() -> None:
    assert histogram([0.0, -0.0, -0.0]).magnitudes()[0] == 3


def test_an_empty_histogram_is_empty() -> None:
    h = histogram([], np.zeros((0, 3)))
    assert (h.total, h.amax) == (0, 0.0)
    assert state(h) == state(Histogram())


@given(values=VALUES)
def test_the_sparse_form_holds_everything(values: np.ndarray[Any, Any]) -> None:
    h = histogram(values)
    buckets, counts = h.sparse()
    assert (counts > 0).all()
    assert buckets.dtype == np.uint16
    assert state(Histogram.from_sparse(buckets, counts, h.minimum, h.maximum)) == state(h)


def test_the_sparse_form_of_an_empty_histogram_is_empty() -> None:
    buckets, counts = Histogram().sparse()
    assert len(buckets) == len(counts) == 0
    again = Histogram.from_sparse(buckets, counts, float("inf"), float("-inf"))
    assert state(again) == state(Histogram())


def test_strided_and_double_values_count_as_their_float32_selves() -> None:
    values = np.arange(24, dtype=np.float64).reshape(4, 6) / 7
    assert state(histogram(values.T[::2])) == state(histogram(values[:, ::2].ravel()))


@given(values=VALUES, bins=st.sampled_from([1, 7, 128, 2048]))
def test_linear_bins_conserve_the_total_and_end_at_the_largest_value(
    values: np.ndarray[Any, Any], bins: int
) -> None:
    counts, width = histogram(values).linear(bins)
    assert len(counts) == bins
    assert counts.sum() == pytest.approx(len(values), rel=1e-9)
    assert counts.min() >= -1e-9 * len(values)
    assert width * bins == pytest.approx(float(np.abs(values).max()), rel=1e-9, abs=SMALLEST)


@given(values=arrays(np.float32, st.integers(1, 60), elements=st.floats(0.125, 4.0, width=32)))
def test_linear_bins_place_every_value_within_a_bucket_of_itself(
    values: np.ndarray[Any, Any],
) -> None:
    counts, width = histogram(values).linear(2048)
    edges = np.arange(2049) * width
    below = np.concatenate([[0.0], np.cumsum(counts)])
    slack = 0.008
    for edge, count in zip(edges, below, strict=True):
        assert np.sum(values < edge / (1 + slack)) - 1e-9 <= count
        assert count <= np.sum(values <= edge * (1 + slack)) + 1e-9


def test_linear_bins_spread_a_bucket_evenly() -> None:
    values = np.linspace(1.0, 2.0, 100_001, dtype=np.float32)[:-1]  # 128 equal buckets
    counts, width = histogram(values).linear(2048)
    inside = counts[int(1 / width) + 1 : -1]
    assert inside == pytest.approx(np.full(len(inside), 100_000 * width), rel=0.01)
