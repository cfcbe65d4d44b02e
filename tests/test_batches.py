from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.base import Session, TensorSpec
from resnet_edge.batches import ImageBatches, portions
from resnet_edge.data import IdxImages
from resnet_edge.errors import DataError
from resnet_edge.imaging import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

counts, sizes = st.integers(1, 40), st.none() | st.integers(1, 12)


@given(counts, sizes)
def test_every_row_is_in_one_portion_and_all_portions_have_the_size(
    count: int, size: int | None
) -> None:
    rows = np.arange(count * 2).reshape(count, 2)
    found = list(portions(rows, size))
    assert np.array_equal(np.concatenate([part[:meant] for part, meant in found]), rows)
    assert {len(part) for part, _ in found} == {size or count}
    for part, meant in found:  # filled up with its own first rows
        assert np.array_equal(part[meant:], part[np.arange(meant, len(part)) % meant])


class Strict(Session):
    """Doubles its rows, and gives their sum beside them; takes one number of rows."""

    def __init__(self, batch: int | None) -> None:
        self.inputs = (TensorSpec("x", (batch, 2), "float32"),)
        self.outputs = ()
        self.calls: list[int] = []

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        assert self.batch in (None, len(feed["x"]))
        self.calls.append(len(feed["x"]))
        return {"twice": 2 * feed["x"], "sum": feed["x"].sum(1)}

    def close(self) -> None:
        pass


@given(counts, sizes)
def test_a_session_runs_any_number_of_rows_whatever_it_takes(count: int, size: int | None) -> None:
    rows = np.random.default_rng(count).normal(size=(count, 2))
    session = Strict(size)
    found = session.run_rows(rows)
    assert np.array_equal(found["twice"], 2 * rows)
    assert np.array_equal(found["sum"], rows.sum(1))
    assert len(session.calls) == (1 if size is None else -(-count // size))
    assert len(Strict(None).run_rows(rows, batch=size)["sum"]) == count


class Broken(IdxImages):
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
