"""The accuracy gate's statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.statistics import (
    Z_ONE_SIDED_95,
    Z_TWO_SIDED_95,
    Paired,
    drop_limit,
    gate,
    mcnemar,
    needed_images,
)


@st.composite
def tables(draw: st.DrawFn) -> Paired:
    n = draw(st.integers(1, 50_000))
    lost = draw(st.integers(0, n))
    return Paired(n, lost, draw(st.integers(0, n - lost)))


def test_limits_are_where_the_score_reaches_the_quantile() -> None:
    counts = Paired(50, 9, 2)
    upper = drop_limit(counts, Z_TWO_SIDED_95, upper=True)
    lower = drop_limit(counts, Z_TWO_SIDED_95, upper=False)
    assert _brute_force(counts, upper) == pytest.approx(Z_TWO_SIDED_95**2, rel=1e-3)
    assert _brute_force(counts, lower) == pytest.approx(Z_TWO_SIDED_95**2, rel=1e-3)


def _brute_force(counts: Paired, drop: float) -> float:
    """Squared score with the constrained likelihood maximised on a grid."""
    n, lost, won = counts.n, counts.lost, counts.won
    q = np.linspace(max(0.0, -drop) + 1e-9, (1 - drop) / 2 - 1e-9, 400_001)
    likelihood = (
        lost * np.log(q + drop) + won * np.log(q) + (n - lost - won) * np.log(1 - 2 * q - drop)
    )
    best = q[np.argmax(likelihood)]
    return float((lost - won - n * drop) ** 2 / (n * (2 * best + drop - drop * drop)))


@given(tables())
def test_limits_enclose_the_estimate_and_stay_in_range(counts: Paired) -> None:
    upper = drop_limit(counts, Z_ONE_SIDED_95, upper=True)
    lower = drop_limit(counts, Z_ONE_SIDED_95, upper=False)
    assert -1 <= lower <= counts.drop + 1e-9
    assert counts.drop - 1e-9 <= upper <= 1


@given(tables())
def test_exchanging_the_models_mirrors_the_interval(counts: Paired) -> None:
    mirrored = Paired(counts.n, counts.won, counts.lost)
    assert drop_limit(counts, 1.645, upper=True) == -drop_limit(mirrored, 1.645, upper=False)


@given(tables(), st.integers(2, 20))
def test_more_images_at_the_same_rates_never_widen_the_interval(
    counts: Paired, factor: int
) -> None:
    more = Paired(counts.n * factor, counts.lost * factor, counts.won * factor)
    assert drop_limit(more, 1.645, upper=True) <= drop_limit(counts, 1.645, upper=True) + 1e-9


def test_no_flip_on_few_images_proves_nothing() -> None:
    assert drop_limit(Paired(32, 0, 0), Z_ONE_SIDED_95, upper=True) > 0.05
    assert gate(Paired(32, 0, 0), 0.005) == "inconclusive"


def test_no_flip_on_many_images_is_about_the_rule_of_three() -> None:
    limit = drop_limit(Paired(1000, 0, 0), Z_ONE_SIDED_95, upper=True)
    assert limit == pytest.approx(Z_ONE_SIDED_95**2 / (1000 + Z_ONE_SIDED_95**2), rel=1e-6)


def test_many_images_agree_with_the_normal_interval() -> None:
    counts = Paired(50_000, 700, 500)
    spread = math.sqrt(counts.lost + counts.won - (counts.lost - counts.won) ** 2 / counts.n)
    expected = counts.drop + Z_ONE_SIDED_95 * spread / counts.n
    assert drop_limit(counts, Z_ONE_SIDED_95, upper=True) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("lost", "won", "outcome"), [(100, 90, "pass"), (300, 100, "fail"), (150, 100, "inconclusive")]
)
def test_the_gate_has_three_outcomes(lost: int, won: int, outcome: str) -> None:
    assert gate(Paired(10_000, lost, won), 0.005) == outcome


@given(tables(), st.floats(0, 0.2))
def test_the_needed_number_of_images_settles_the_gate(counts: Paired, max_drop: float) -> None:
    needed = needed_images(counts, max_drop)
    if needed is not None:
        factor = needed / counts.n
        scaled = Paired(needed, counts.lost * factor, counts.won * factor)
        assert gate(scaled, max_drop) != "inconclusive"
        assert needed >= counts.n


def test_a_drop_exactly_at_the_budget_cannot_be_settled() -> None:
    assert needed_images(Paired(1000, 15, 10), 0.005) is None


def test_the_upper_limit_holds_its_level() -> None:
    """With a true drop at the limit, at most about 5 % of comparisons pass."""
    rng = np.random.default_rng(0)
    n, max_drop = 2000, 0.005
    samples = rng.multinomial(n, [0.0125, 0.0075, 0.98], size=4000)
    passed = [gate(Paired(n, int(s[0]), int(s[1])), max_drop) == "pass" for s in samples]
    assert np.mean(passed) <= 0.06


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1.0), (5, 0, 0.0625), (6, 1, 0.125)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int, p: float) -> None:
    assert mcnemar(Paired(100, lost, won)) == pytest.approx(p)
