"""Which of several builds is kept."""

from __future__ import annotations

from itertools import permutations

import pytest

from resnet_edge.backends.fastest import fastest


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_the_build_with_the_least_time_is_kept_wherever_it_stands(order: tuple[str, ...]) -> None:
    times = {"a": 1.5, "b": 1.25, "c": 10.0}
    kept, notes = fastest(order, times.__getitem__, 4)
    assert kept == "b"
    listed = ", ".join(f"{times[name]:.3f}" for name in order)
    assert notes == (f"the fastest of 3 builds; GPU ms at batch 4: {listed}",)


def test_one_build_is_kept_without_a_measurement() -> None:
    def never(_: str) -> float:
        raise AssertionError

    assert fastest(["only"], never, 1) == ("only", ())
