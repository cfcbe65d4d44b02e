from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.calibrate.ranges import (
    METHODS,
    Method,
    entropy,
    entropy_tensorrt,
    estimate,
    kl_divergences,
    minmax,
    mse,
    percentile,
)
from resnet_edge.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]


def histogram(values: Any) -> Histogram:
    result = Histogram()
    result.update(np.asarray(values, dtype=np.float32))
    return result


def naive_divergence(counts: Array, i: int, levels: int) -> float:
    """One candidate as NVIDIA's pytorch-quantization computes it, loop by loop."""
    level_of_bin = np.digitize(np.arange(i), np.linspace(0, i, levels + 1)) - 1
    q = np.zeros(i)
    for level in range(levels):
        filled = [b for b in range(i) if level_of_bin[b] == level and counts[b] > 0]
        for b in filled:
            q[b] = sum(counts[c] for c in filled) / len(filled)
    p = counts[:i].astype(np.float64)
    p[-1] += counts[i:].sum()
    if not q.any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    total = 0.0
    for p_bin, q_bin in zip(p, q, strict=True):
        if p_bin > 0:
            total += p_bin * np.log(p_bin / q_bin) if q_bin > 0 else float("inf")
    return total


def relu_like(count: int = 200_000) -> Array:
    rng = np.random.default_rng(1)
    return np.maximum(rng.normal(0.2, 1.0, count), 0).astype(np.float32)


def gaussian_with_outliers() -> Array:
    values = np.random.default_rng(0).normal(size=1_000_000)
    values[:5] = 40.0
    return values.astype(np.float32)


def test_the_divergence_of_the_published_example() -> None:
    """P reduced to two levels is [2, 0, 2, 2, 4, 4, 4, 4]: 0.1503152653 nats."""
    counts = np.array([1, 0, 2, 3, 5, 3, 1, 7], dtype=np.float64)
    assert kl_divergences(counts, 2)[-1] == pytest.approx(0.1503152653, abs=1e-10)


@given(
    counts=arrays(np.float64, st.integers(8, 40), elements=st.integers(0, 1000).map(float)),
    levels=st.sampled_from([2, 4, 8]),
)
def test_divergences_equal_those_of_the_loops_they_replace(counts: Array, levels: int) -> None:
    counts[0] += 1
    fast = kl_divergences(counts, levels)
    slow = [naive_divergence(counts, i, levels) for i in range(levels, len(counts) + 1)]
    assert np.allclose(fast, slow, rtol=0, atol=1e-9)


def test_divergences_of_a_real_histogram_equal_those_of_the_loops() -> None:
    counts, _ = histogram(relu_like()).linear(160)
    counts[0] = counts[1]
    slow = [naive_divergence(counts, i, 128) for i in range(128, 161)]
    assert np.allclose(kl_divergences(counts, 128), slow, rtol=0, atol=1e-9)


def test_folding_outliers_into_an_empty_bin_costs_infinity() -> None:
    counts = np.array([4, 3, 2, 0, 1, 0], dtype=np.float64)
    divergences = kl_divergences(counts, 2)  # for clipping after 2, 3, 4, 5, 6 bins
    assert np.isinf(divergences).tolist() == [False, False, True, False, False]


def test_clipping_everything_away_costs_infinity() -> None:
    assert np.isinf(kl_divergences(np.array([0.0, 0, 0, 5, 5]), 2)[:2]).all()


def test_minmax_clips_nothing() -> None:
    assert minmax(histogram([-3.14, 2.5])) == np.float32(3.14)
    assert minmax(histogram(gaussian_with_outliers())) == 40.0


def test_mse_hardly_clips_uniform_values() -> None:
    h = histogram(np.random.default_rng(0).uniform(-1, 1, 200_000))
    assert 0.98 * h.amax <= mse(h) <= h.amax


@pytest.mark.parametrize("method", ["entropy", "entropy-tensorrt", "mse", "percentile"])
def test_outliers_of_a_gaussian_are_clipped(method: Method) -> None:
    amax = estimate(histogram(gaussian_with_outliers()), method, percent=99.99)
    assert 2.0 < amax < 0.6 * 40.0


def test_mse_is_the_best_of_all_clipping_points() -> None:
    values = gaussian_with_outliers()[:50_000]

    def error(amax: float) -> float:
        scale = amax / 127
        return float(((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).mean())

    h = histogram(values)
    candidates = np.linspace(h.amax / 16, h.amax, 400)
    assert error(mse(h)) <= 1.01 * min(error(c) for c in candidates)


@pytest.mark.parametrize("outlier", [None, 40.0])
@pytest.mark.parametrize(
    ("distribution", "end"), [("normal", 3.5), ("laplace", 6.0), ("exponential", 6.0)]
)
def test_the_entropy_threshold_is_that_of_a_true_histogram(
    distribution: str, end: float, outlier: float | None
) -> None:
    """Where the tail is dense; in a sparse one the minimum is flat and chance decides in both."""
    values = np.abs(getattr(np.random.default_rng(2), distribution)(size=1_000_000))
    values = np.append(values[values < end], [outlier or end] * 5).astype(np.float32)
    counts, edges = np.histogram(values, 2048, (0, values.max()))
    counts[0] = counts[1]
    divergences = kl_divergences(counts.astype(np.float64), 128)
    last = len(divergences) - 1 - int(divergences[::-1].argmin())
    assert entropy(histogram(values)) == pytest.approx(edges[128 + last], rel=0.015)


@pytest.mark.parametrize("estimator", [entropy, entropy_tensorrt])
def test_zeros_behind_a_relu_do_not_decide_the_entropy_threshold(
    estimator: Callable[[Histogram], float],
) -> None:
    values = relu_like()
    zeros = np.zeros(10 * len(values), np.float32)
    without = estimator(histogram(values[values > 0]))
    assert estimator(histogram(np.concatenate([values, zeros]))) == pytest.approx(without, rel=0.02)


def documented_divergence(counts: Array, b: int, *, literally: bool) -> float:
    """Bin ``b`` as a candidate, sentence by sentence of NVIDIA's calibration.md, loop by loop."""
    truncated = counts[: b + 1].astype(np.float64)
    truncated[b] += counts[b + 1 :].sum()
    source = truncated if literally else counts[: b + 1]
    coarse_width = (b + 0.5) / 127
    level = [min(int((j + 0.5) / coarse_width + 1e-9), 126) for j in range(b + 1)]
    mass, filled = np.zeros(127), np.zeros(127)
    for j in range(b + 1):
        mass[level[j]] += source[j]
        filled[level[j]] += source[j] > 0
    if not mass.any():
        return float("inf")
    total = 0.0
    for j in range(b + 1):
        p = truncated[j] / truncated.sum()
        if p > 0:
            q = mass[level[j]] / filled[level[j]] / mass.sum() if source[j] > 0 else 0.0
            total += p * np.log(p / q) if q > 0 else float("inf")
    return total


@pytest.mark.parametrize("power", [1, 2])
def test_entropy_tensorrt_is_what_nvidia_documents(power: int) -> None:
    normal = np.random.default_rng(power).normal(0.1, 1, 20_000)
    values = np.maximum(normal**power, 0).astype(np.float32)
    h = histogram(values)
    bins = int(np.ceil(1024 * h.amax / percentile(h, 99.99)))
    assert 1024 <= bins < 4096
    counts, width = h.linear(bins)
    counts[0] = 0
    divergences = [documented_divergence(counts, b, literally=False) for b in range(126, bins)]
    best = bins - 1 - int(np.argmin(divergences[::-1]))
    assert min(divergences) > 0
    assert entropy_tensorrt(h) == pytest.approx((best + 0.5) * width, rel=1e-9)


def test_read_to_the_letter_the_document_always_takes_the_smallest_range() -> None:
    """Why entropy-tensorrt departs from it: with the outliers in both, 127 levels are exact."""
    counts, _ = histogram(gaussian_with_outliers()).linear(1024)
    assert documented_divergence(counts, 126, literally=True) == pytest.approx(0.0, abs=1e-12)
    assert documented_divergence(counts, 1023, literally=True) > 0


@given(
    values=arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**99), 2.0**99, width=32))
)
def test_entropy_tensorrt_never_needs_more_than_eight_times_its_bins(values: Array) -> None:
    h = histogram(values)
    sizes = []
    linear = h.linear
    h.linear = lambda bins: (sizes.append(bins), linear(bins))[1]  # type: ignore[method-assign,func-returns-value]
    estimate(h, "entropy-tensorrt")
    assert all(1024 <= size <= 8192 for size in sizes)


POSITIVE = st.floats(2.0**-9, 2.0**9, width=32)


@given(values=arrays(np.float32, st.integers(1, 300), elements=POSITIVE), sign=st.booleans())
def test_percentile_100_is_the_maximum(values: Array, sign: bool) -> None:
    h = histogram(-values if sign else values)
    assert percentile(h, 100) == pytest.approx(h.amax, rel=1e-12)


@given(
    values=arrays(np.float32, st.integers(1, 300), elements=POSITIVE),
    percent=st.floats(1, 99.999),
)
def test_percentile_is_within_a_bucket_of_the_exact_quantile(values: Array, percent: float) -> None:
    """Where the share falls between two values, either of them or anything between will do."""
    low, high = (
        float(np.quantile(values.astype(np.float64), np.clip(q, 0, 1), method="inverted_cdf"))
        for q in (percent / 100 - 1e-9, percent / 100 + 1e-9)
    )
    assert low * 0.992 <= percentile(histogram(values), percent) <= high * 1.008


@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentile_of_many_values_is_the_quantile(percent: float) -> None:
    values = np.random.default_rng(3).standard_normal(300_000).astype(np.float32)
    exact = np.quantile(np.abs(values), percent / 100)
    assert percentile(histogram(values), percent) == pytest.approx(exact, rel=0.008)


@pytest.mark.parametrize(("count", "percent"), [(10_000, 99.99), (1_000, 99.9), (100, 99.0)])
def test_an_outlier_that_is_just_the_share_to_clip_is_clipped(count: int, percent: float) -> None:
    values = np.linspace(1, 2, count, dtype=np.float32)
    values[-1] = 1000.0
    assert percentile(histogram(values), percent) < 2.1


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(CalibrationError, match="percentile"):
        percentile(histogram([1.0]), percent)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_gets_a_range_that_divides(method: Method) -> None:
    assert estimate(histogram([0.0, -0.0, 0.0]), method) == 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1.0, -2.0, 0.3, 1e-30, 3e38, 1e-42])
def test_a_constant_tensor_keeps_its_value(method: Method, value: float) -> None:
    h = histogram([value] * 100)
    assert estimate(h, method) == pytest.approx(h.amax, rel=0.0081)


@pytest.mark.parametrize("method", METHODS)
def test_a_mostly_zero_tensor_keeps_its_few_values(method: Method) -> None:
    values = np.zeros(1_000_000, np.float32)
    values[:20] = np.linspace(1, 2, 20)
    assert 0.9 <= estimate(histogram(values), method) <= 2.0 * (1 + 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_histogram_is_refused(method: Method) -> None:
    with pytest.raises(CalibrationError, match="no value was collected"):
        estimate(Histogram(), method)


@given(
    values=arrays(
        np.float32,
        st.integers(1, 50),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_every_range_is_positive_and_never_beyond_the_maximum(values: Array) -> None:
    h = histogram(values)
    for method in METHODS:
        amax = estimate(h, method)
        assert 0 < amax <= (h.amax * (1 + 1e-12) if h.amax else 1.0)
