from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.trtexec.output import check_outputs, parse_outputs, parse_times
from resnet_edge.errors import BackendUnavailableError

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20
)
FLOATS = st.floats(width=32)


def written(value: float) -> str:
    """A float32 as a C++ stream writes it."""
    return f"{value:g}"


def tensor(name: str, shape: str, values: list[float], separator: str) -> str:
    return (
        f'{separator}{{ "name" : "{name}"\n  , "dimensions" : "{shape}"\n'
        f'  , "values" : [ {", ".join(map(written, values))} ]\n  }}\n'
    )


def exported(outputs: dict[str, tuple[str, list[float]]]) -> str:
    parts = [
        tensor(name, shape, values, ", " if position else "  ")
        for position, (name, (shape, values)) in enumerate(outputs.items())
    ]
    return "".join(["[\n", *parts, "]\n"])


@given(
    st.dictionaries(
        NAMES,
        st.tuples(st.integers(1, 3), st.integers(1, 5)).flatmap(
            lambda s: st.tuples(
                st.sampled_from([f"{s[0]}x{s[1]}", f"({s[0]}, {s[1]})"]),
                st.lists(FLOATS, min_size=s[0] * s[1], max_size=s[0] * s[1]),
            )
        ),
        min_size=1,
        max_size=3,
    )
)
def test_every_float_and_every_name_reads_back(
    outputs: dict[str, tuple[str, list[float]]],
) -> None:
    found = parse_outputs(exported(outputs))
    assert list(found) == list(outputs)
    for name, (shape, values) in outputs.items():
        assert found[name].dtype == np.float32
        assert len(found[name].shape) == 2
        assert "x".join(map(str, found[name].shape)) in (shape, shape[1:-1].replace(", ", "x"))
        for value, got in zip(values, found[name].ravel().tolist(), strict=True):
            if math.isnan(value):
                assert math.isnan(got)
            else:
                assert got == np.float32(float(written(value)))


@pytest.mark.parametrize("word", ["nan", "-nan", "inf", "-inf"])
def test_what_is_not_a_number_is_kept_as_such(word: str) -> None:
    text = exported({"logits": ("1x2", [1.0, 2.0])}).replace("[ 1,", f"[ {word},")
    np.testing.assert_array_equal(parse_outputs(text)["logits"], [[np.float32(word), 2.0]])


@given(st.data())
def test_a_damaged_file_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    whole = exported({"a": ("2x2", [1.5, -2.0, 3.25e-7, 4.0]), "b": ("1", [7.0])})
    cut = data.draw(st.integers(0, len(whole) - 4))
    junk = data.draw(st.text(st.characters(exclude_characters="]"), max_size=5))
    with pytest.raises(BackendUnavailableError, match="outputs cannot be read"):
        parse_outputs(whole[:cut] + junk)


@pytest.mark.parametrize(
    "text",
    [
        "", "[\n]\n", "null", "[" * 100_000,
        exported({"a": ("2x2", [1.0])}),
        exported({"a": ("1", [1.0])}).replace("1 ]", "one ]"),
        exported({"a": ("1", [1.0])}) * 2,
    ],
)  # fmt: skip
def test_what_is_not_an_export_is_refused(text: str) -> None:
    with pytest.raises(BackendUnavailableError, match="outputs cannot be read"):
        parse_outputs(text)


def record(start: float, h2d: float, compute: float, d2h: float, **extra: float) -> dict[str, Any]:
    begin = start + h2d
    return {
        "startEnqMs": start, "endEnqMs": begin, "startH2dMs": start, "endH2dMs": begin,
        "startComputeMs": begin, "endComputeMs": begin + compute,
        "startD2hMs": begin + compute, "endD2hMs": begin + compute + d2h,
        "h2dMs": h2d, "computeMs": compute, "d2hMs": d2h, "latencyMs": h2d + compute + d2h, **extra,
    }  # fmt: skip


MS = st.floats(0, 1e6, width=32)


@given(st.lists(st.tuples(MS, MS, MS, MS), min_size=1), st.integers(0, 500))
def test_times_are_those_after_the_warm_up(
    rows: list[tuple[float, float, float, float]], warm_up: int
) -> None:
    records = [record(*row, endToEndMs=1e9) for row in rows]  # 8.2 has a queueing time too
    kept = [row for row in rows if row[0] + row[1] >= warm_up]
    if not kept:
        with pytest.raises(BackendUnavailableError, match="no call is left"):
            parse_times(json.dumps(records), warm_up_ms=warm_up)
        return
    found = parse_times(json.dumps(records), warm_up_ms=warm_up)
    assert found.parts == {
        "h2d": tuple(r[1] for r in kept),
        "compute": tuple(r[2] for r in kept),
        "d2h": tuple(r[3] for r in kept),
    }
    assert found.total == tuple(r[1] + r[2] + r[3] for r in kept)


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[1]", "[null]", '[{"startComputeMs": 1}]', "[" * 100_000, "[]",
        json.dumps([record(1, 1, 1, 1) | {"computeMs": -1}]),
        json.dumps([record(1, 1, 1, 1) | {"latencyMs": float("nan")}]),
        json.dumps([record(1, 1, 1, 1) | {"h2dMs": None}]),
        json.dumps([record(1, 1, 1, 1)]).replace("3}", "nan}"),
    ],
)  # fmt: skip
def test_times_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BackendUnavailableError, match="times cannot be read"):
        parse_times(text, warm_up_ms=0)


@given(st.text())
def test_no_text_breaks_the_readers(text: str) -> None:
    for reader in (parse_outputs, lambda t: parse_times(t, warm_up_ms=0)):
        with pytest.raises(BackendUnavailableError):
            reader(text)


def test_outputs_of_another_shape_or_name_are_refused() -> None:
    found = {"logits": np.zeros((2, 10), np.float32)}
    check_outputs(found, {"logits": (None, 10)}, 2)
    for wanted, batch in (
        ({"logits": (None, 10)}, 3),
        ({"logits": (None, 9)}, 2),
        ({"y": (2,)}, 2),
    ):
        with pytest.raises(BackendUnavailableError, match="the graph says"):
            check_outputs(found, wanted, batch)  # type: ignore[arg-type]
