from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.base import Session, TensorSpec
from resnet_edge.batches import portions

if TYPE_CHECKING:
    from collections.abc import Mapping

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
