from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.base import Session
from resnet_edge.errors import DataError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.batches import ImageBatches, portions
from resnet_edge.images.spec import ImageSpec
from resnet_edge.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

Range = tuple[int, "int | None"]
counts = st.integers(1, 40)
ranges = st.tuples(st.integers(1, 12), st.none() | st.integers(0, 12)).map(
    lambda pair: (pair[0], None if pair[1] is None else pair[0] + pair[1])
)


@given(counts, ranges)
def test_every_row_is_in_one_of_the_fewest_portions_that_the_network_takes(
    count: int, limits: Range
) -> None:
    fewest, most = limits
    rows = np.arange(count * 2).reshape(count, 2)
    found = list(portions(rows, fewest, most))
    assert np.array_equal(np.concatenate([part[:meant] for part, meant in found]), rows)
    assert len(found) == (1 if most is None else -(-count // most))
    assert all(len(part) == max(fewest, meant) for part, meant in found)
    assert all(most is None or len(part) <= most for part, _ in found)
    for part, meant in found:  # filled up with its own first rows
        assert np.array_equal(part[meant:], part[np.arange(meant, len(part)) % meant])


class Strict(Session):
    """Doubles its rows, and gives their sum beside them; takes so many rows."""

    def __init__(self, limits: Range) -> None:
        fewest, most = self.limits = limits
        self.inputs = (TensorSpec("x", (fewest if fewest == most else None, 2), "float32"),)
        self.outputs = ()
        self.calls: list[int] = []

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        fewest, most = self.limits
        assert fewest <= len(feed["x"]) <= (most or len(feed["x"]))
        self.calls.append(len(feed["x"]))
        return {"twice": 2 * feed["x"], "sum": feed["x"].sum(1)}

    def close(self) -> None:
        pass


class Profiled(Strict):
    """Says what it takes as an engine with a profile does."""

    @property
    def batch_range(self) -> Range:
        return self.limits


@given(counts, ranges)
def test_a_session_runs_any_number_of_rows_whatever_it_takes(count: int, limits: Range) -> None:
    rows = np.random.default_rng(count).normal(size=(count, 2))
    session = Profiled(limits)
    found = session.run_rows(rows)
    assert np.array_equal(found["twice"], 2 * rows)
    assert np.array_equal(found["sum"], rows.sum(1))
    assert len(session.calls) == (1 if limits[1] is None else -(-count // limits[1]))


@given(counts, st.integers(1, 12))
def test_what_a_session_takes_is_read_from_its_input_or_asked_for(count: int, batch: int) -> None:
    rows = np.ones((count, 2))
    fixed, free, asked = Strict((batch, batch)), Strict((1, None)), Strict((1, None))
    for session, wanted in ((fixed, None), (free, None), (asked, batch)):
        assert len(session.run_rows(rows, wanted)["sum"]) == count
    assert set(fixed.calls) == {batch}
    assert free.calls == [count]
    assert asked.calls == fixed.calls


class Broken(ArrayImages):
    """Blank images, of which the first ones cannot be decoded."""

    def __init__(self, count: int, broken: int) -> None:
        super().__init__(Path("images"), np.zeros((count, 8, 8), np.uint8), None)
        self.broken = broken

    def load(self, index: int) -> Image.Image:
        if index < self.broken:
            raise OSError("truncated")
        return super().load(index)


@pytest.mark.parametrize(
    ("count", "broken", "taken", "fine"),
    [
        (200, 20, None, True),  # a tenth of all
        (200, 21, None, False),
        (10, 2, None, False),
        (200, 3, 8, True),  # three of eight happen where a tenth is broken, four hardly
        (200, 4, 8, False),
        (5000, 70, 512, True),
        (5000, 80, 512, False),
        (200, 1, 1, False),  # nothing is left
    ],
)
def test_a_tenth_may_be_broken_and_by_chance_more_of_a_sample(
    count: int, broken: int, taken: int | None, fine: bool
) -> None:
    spec = ImageSpec(None, (8, 8), (0.0,), (1.0,), color="gray")
    indices = None if taken is None else range(taken)
    batches = ImageBatches(Broken(count, broken), spec, 4, indices)
    if fine:
        assert sum(len(batch.indices) for batch in batches) == (taken or count) - broken
        assert len(batches.skipped) == broken
    else:
        with pytest.raises(DataError, match=rf"of {taken or count} images cannot be decoded"):
            list(batches)
