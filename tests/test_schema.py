"""Plain values become dataclasses only if every key and type is right."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.catalog.targets import Target, list_targets
from resnet_edge.errors import ConfigError
from resnet_edge.schema import decode


@dataclass(frozen=True)
class Inner:
    size: int
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ConfigError("size 13 brings bad luck", hint="use 12")


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    flag: bool = False
    pair: tuple[str, str] | None = None
    numbers: tuple[int, ...] = ()
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    made: list[int] = field(default_factory=list)


def plain(value: Any) -> Any:
    """Return what a TOML file would hold: no nulls, lists for tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


INNERS = st.builds(
    Inner, st.integers().filter(lambda n: n != 13), st.floats(allow_nan=False, allow_infinity=False)
)
OUTERS = st.builds(
    Outer,
    name=st.just("n"),
    kind=st.sampled_from(["a", "b"]),
    flag=st.booleans(),
    pair=st.none() | st.tuples(st.text(), st.text()),
    numbers=st.lists(st.integers()).map(tuple),
    inner=st.none() | INNERS,
    inners=st.lists(INNERS).map(tuple),
)


@given(OUTERS)
def test_what_is_written_is_read(value: Outer) -> None:
    written = plain(asdict(value))
    del written["name"], written["made"]
    assert decode(Outer, written, "f.toml", name="n") == value


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_every_target_survives_being_written(target: Target) -> None:
    written = plain(asdict(target))
    del written["name"]
    assert decode(Target, written, "f.toml", name=target.name) == target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, "f.toml: kind: unknown value 'c'"),
        ({"kind": 1}, "f.toml: kind: unknown value 1"),
        ({"flag": 1}, "f.toml: flag: must be true or false, not 1"),
        ({"pair": ["x"]}, "f.toml: pair: must have 2 items, not 1"),
        ({"pair": "xy"}, "f.toml: pair: must be a list, not 'xy'"),
        ({"numbers": [1, "2"]}, "f.toml: numbers[1]: must be a whole number, not '2'"),
        ({"numbers": [True]}, "f.toml: numbers[0]: must be a whole number, not True"),
        ({"inner": 3}, "f.toml: inner: must be a table, not 3"),
        ({"inner": {}}, "f.toml: inner: missing key size"),
        ({"inner": {"size": 1.0}}, "f.toml: inner.size: must be a whole number, not 1.0"),
        ({"inner": {"size": 1, "ratio": "x"}}, "f.toml: inner.ratio: must be a number, not 'x'"),
        ({"inners": [{"size": 1}, {"size": 1, "x": 2}]}, "f.toml: inners[1]: unknown key x"),
        ({"inners": [{"size": 13}]}, "f.toml: inners[0]: size 13 brings bad luck"),
        ({"name": "other"}, "f.toml: unknown key name"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Outer, {"kind": "a", **change}, "f.toml", name="n")
    assert caught.value.message == message


def test_hints_are_kept() -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Outer, {"kind": "a", "inner": {"size": 13}}, "f.toml", name="n")
    assert caught.value.hint == "use 12"
    with pytest.raises(ConfigError) as caught:
        decode(Outer, {"kind": "a", "inner": {"siez": 1}}, "f.toml", name="n")
    assert caught.value.hint == "allowed: ratio, size"


def test_a_whole_number_is_a_number_too() -> None:
    value = decode(Inner, {"size": 1, "ratio": 2}, "f.toml")
    assert type(value.ratio) is float
