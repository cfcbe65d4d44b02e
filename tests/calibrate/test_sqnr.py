from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.calibrate.ranges import METHODS, estimate
from resnet_edge.calibrate.sqnr import quantization_noise, sqnr_db


def of(values: Any) -> Histogram:
    histogram = Histogram()
    histogram.update(np.asarray(values, np.float32))
    return histogram


def measured(values: Any, amax: float) -> tuple[float, float]:
    """Mean square of the values and of what int8 does to them."""
    scale = amax / 127
    rounded = np.clip(np.rint(values / scale), -127, 127) * scale
    return float(np.mean(values**2)), float(np.mean((values - rounded) ** 2))


SHAPES = {
    "normal": lambda rng: rng.normal(0, 1, 20_000),
    "behind a ReLU": lambda rng: np.maximum(rng.normal(-0.5, 2, 20_000), 0),
    "heavy tail": lambda rng: rng.standard_t(3, 20_000),
    "uniform": lambda rng: rng.uniform(-3, 7, 20_000),
    "one outlier": lambda rng: np.append(rng.normal(0, 0.1, 20_000), 30.0),
}


@given(
    kind=st.sampled_from(sorted(SHAPES)),
    seed=st.integers(0, 2**16),
    share=st.floats(0.02, 1.5),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e5]),
)
def test_the_noise_is_that_of_the_values_themselves(
    kind: str, seed: int, share: float, scale: float
) -> None:
    values = (SHAPES[kind](np.random.default_rng(seed)) * scale).astype(np.float32).astype(float)
    histogram = of(values)
    amax = share * histogram.amax
    signal, noise = measured(values, amax)
    # One value alone, such as the outlier on its level, may hit a level; spread over its bucket
    # it has at least the bucket's share of the noise.
    slack = 0.0 if kind != "one outlier" else (0.01 * histogram.amax) ** 2 / len(values)
    [found] = quantization_noise(histogram, [amax])
    assert found == pytest.approx(noise, rel=0.05, abs=slack)
    if not slack:
        [ratio] = sqnr_db(histogram, [amax])
        assert ratio == pytest.approx(10 * np.log10(signal / noise), abs=0.25)


@given(st.lists(st.floats(0.05, 10), min_size=1, max_size=6), st.integers(0, 99))
def test_ranges_are_judged_one_by_one(amaxes: list[float], seed: int) -> None:
    histogram = of(np.random.default_rng(seed).normal(0, 1, 500))
    together = quantization_noise(histogram, amaxes)
    assert together.shape == (len(amaxes),)
    for amax, noise in zip(amaxes, together, strict=True):
        assert quantization_noise(histogram, [amax])[0] == pytest.approx(noise, rel=1e-12)


def test_rounding_alone_is_a_twelfth_of_a_squared_step() -> None:
    histogram = of(np.random.default_rng(0).uniform(-1, 1, 200_000))
    [noise] = quantization_noise(histogram, [histogram.amax])
    assert noise == pytest.approx((histogram.amax / 127) ** 2 / 12, rel=0.01)


def test_clipping_everything_leaves_all_of_the_signal_as_noise() -> None:
    histogram = of(np.random.default_rng(0).normal(0, 1, 2000))
    [ratio] = sqnr_db(histogram, [1e-9])
    assert ratio == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("values", [[0.0] * 10, [1.0] * 10, [-127.0, 127.0, 0.0]])
def test_without_noise_the_ratio_stays_finite(values: list[float]) -> None:
    [ratio] = sqnr_db(of(values), [of(values).amax or 1.0])
    assert 200 < ratio <= 300


@pytest.mark.parametrize("kind", SHAPES)
def test_the_mse_estimator_has_the_least_noise_of_all(kind: str) -> None:
    histogram = of(SHAPES[kind](np.random.default_rng(3)))
    amaxes = [estimate(histogram, method) for method in METHODS]
    noise = dict(zip(METHODS, quantization_noise(histogram, amaxes), strict=True))
    assert noise["mse"] <= 1.02 * min(noise.values())
