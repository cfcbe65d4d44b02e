from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.tensorrt.calibration_cache import read_cache, write_cache
from resnet_edge.bundle.ranges_table import RangesTable, TensorRange
from resnet_edge.errors import BundleError, CalibrationError

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "TRT-8600-EntropyCalibration2\n"
FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Anything that may stand in a line: colons, spaces, slashes, other scripts.
NAMES = st.text(
    st.sampled_from(": /_.") | st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1
)
AMAX = st.floats(2.0**-100, 2.0**100, width=32)


def table(tensors: dict[str, float]) -> RangesTable:
    return RangesTable(
        tensors={n: TensorRange(a, -a, a, {"minmax": a}) for n, a in tensors.items()},
        recipe={"name": "test", "method": "minmax"},
        model_sha256="ab" * 32,
        images=("cd" * 32, "ef" * 32),
        skipped=3,
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "calibration.cache"


GOOD_RANGE = TensorRange(1.0, -1.0, 1.0, {"minmax": 1.0})
RANGES = st.builds(
    TensorRange,
    amax=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    min=FINITE,
    max=FINITE,
    estimates=st.dictionaries(st.text(), FINITE, max_size=3),
)


@given(
    tensors=st.dictionaries(st.text(), RANGES, max_size=4),
    images=st.lists(st.text(max_size=8), max_size=3),
    skipped=st.integers(0, 10**6),
)
def test_a_table_round_trips_through_json(
    tmp_path: Path, tensors: dict[str, TensorRange], images: list[str], skipped: int
) -> None:
    original = RangesTable(tensors, {"method": "mse"}, "ab" * 32, tuple(images), skipped)
    original.save(tmp_path / "t.json")
    loaded = RangesTable.load(tmp_path / "t.json")
    assert loaded == original
    assert list(loaded.tensors) == list(original.tensors)


@pytest.mark.parametrize(
    ("low", "high", "amax", "estimates", "suspicion"),
    [
        (0.0, 0.0, 1.0, [1.0, 1.0], "zero throughout"),
        (-2.5, -2.5, 2.5, [2.5, 2.5], "-2.5 throughout"),
        (0.0, 9.0, 9.0, [9.0, 2.0, 2.0], "2 of 3 estimators differ from its range by over 4 x"),
        (0.0, 9.0, 2.0, [9.0, 9.0, 9.0, 2.0], "3 of 4"),
        (0.0, 9.0, 9.0, [9.0, 2.0], None),
        (0.0, 9.0, 2.0, [9.0, 2.0, 2.0, 9.0], None),
        (0.0, 8.0, 2.0, [8.0, 8.0, 8.0], None),
        (-1.0, 1.0, 1.0, [], None),
    ],
)
def test_a_suspicious_range_says_why(
    low: float, high: float, amax: float, estimates: list[float], suspicion: str | None
) -> None:
    found = TensorRange(amax, low, high, {str(i): e for i, e in enumerate(estimates)})
    lines = RangesTable({"good": GOOD_RANGE, "x": found}, {}, "", (), 0).suspicions
    if suspicion is None:
        assert (found.suspicion, lines) == (None, ())
    else:
        assert suspicion in (found.suspicion or "")
        assert lines == (f"x: {found.suspicion}",)


def test_a_table_says_whether_its_inputs_were_random() -> None:
    assert table({}).random == 0
    assert RangesTable({}, {"method": "mse", "random": 64}, "", (), 0).random == 64


@pytest.mark.parametrize("key", ["tensors", "recipe", "model_sha256", "images", "skipped"])
def test_a_table_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "t.json"
    table({"x": 1.0}).save(path)
    value = json.loads(path.read_text())
    del value[key]
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="is not a ranges table") as caught:
        RangesTable.load(path)
    assert caught.value.hint == "calibrate again"


GOOD = {"amax": 1.0, "min": -1.0, "max": 1.0, "estimates": {}}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "table",
        {"tensors": []},
        {"tensors": {"x": None}},
        {"tensors": {"x": {}}},
        {"tensors": {"x": {**GOOD, "amax": "wide"}}},
        {"tensors": {"x": {**GOOD, "amax": None}}},
        {"tensors": {"x": {**GOOD, "estimates": 3}}},
        {"images": 3},
        {"skipped": "few"},
    ],
    ids=json.dumps,
)
def test_a_malformed_table_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "t.json"
    table({"x": 1.0}).save(path)
    if isinstance(value, dict):
        value = {**json.loads(path.read_text()), **value}
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="is not a ranges table"):
        RangesTable.load(path)


@pytest.mark.parametrize("amax", [0.0, -1.0, float("inf"), float("nan")])
def test_a_range_that_cannot_be_a_scale_is_refused(tmp_path: Path, amax: float) -> None:
    table({"good": 1.0, "layer1/bad": amax}).save(tmp_path / "t.json")
    with pytest.raises(CalibrationError, match="layer1/bad is not positive and finite"):
        RangesTable.load(tmp_path / "t.json")


def test_a_missing_or_damaged_file_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        RangesTable.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text('{"tensors": ')
    with pytest.raises(BundleError, match="not readable JSON"):
        RangesTable.load(tmp_path / "t.json")


@given(tensors=st.dictionaries(NAMES, AMAX, max_size=5))
def test_a_cache_gives_back_names_and_scales(cache: Path, tensors: dict[str, float]) -> None:
    write_cache(tensors, cache)
    read = read_cache(cache)
    assert list(read) == list(tensors)
    for name, amax in tensors.items():
        assert np.float32(read[name] / 127) == np.float32(amax / 127)


def test_a_cache_is_what_tensorrt_reads(cache: Path) -> None:
    write_cache({"input": 127 * float(np.float32(0.0078766))}, cache)
    header, line = cache.read_text().splitlines()
    assert header.startswith("TRT-")
    assert header.endswith("-EntropyCalibration2")
    name, digits = line.split(": ")
    assert (name, len(digits)) == ("input", 8)
    assert np.frombuffer(bytes.fromhex(digits), ">f4")[0] == np.float32(0.0078766)


def test_a_cache_of_nvidias_example_is_read(cache: Path) -> None:
    """Big-endian: 0x3c010a14 is 0.007876, a range of just over 1."""
    cache.write_text(HEADER + "input: 3c010a14\n")
    assert read_cache(cache)["input"] / 127 == pytest.approx(0.0078759379685, rel=1e-9)


def test_hex_digits_may_be_unpadded_and_lines_blank(cache: Path) -> None:
    cache.write_text(
        HEADER + "a:b (Unnamed Layer* 1)_output: 1\n\n  \nsmall: 8ccccd\r\nnext:3f800000"
    )
    read = read_cache(cache)
    assert list(read) == ["a:b (Unnamed Layer* 1)_output", "small", "next"]
    assert read["next"] == 127.0
    assert read["small"] == pytest.approx(127 * np.uint32(0x8CCCCD).view(np.float32))


def test_a_tensor_tensorrt_found_no_scale_for_is_left_out(cache: Path) -> None:
    cache.write_text(HEADER + "dead: 0\nalso: 00000000\ninput: 3c010a14\n")
    assert list(read_cache(cache)) == ["input"]


@pytest.mark.parametrize(
    "header", ["", "\n", "input: 3c010a14\n", "trt-8600-EntropyCalibration2\n", "{}"]
)
def test_a_wrong_header_is_refused(cache: Path, header: str) -> None:
    cache.write_text(header)
    with pytest.raises(CalibrationError, match="not a TensorRT calibration cache"):
        read_cache(cache)


@pytest.mark.parametrize(
    "line",
    [
        "input",
        "input:",
        ": 3c010a14",
        "input: scale",
        "input: 3c010a1400",
        "input: -3c010a1",
        "input: bf800000",
        "input: 7f800000",
        "input: 7fc00000",
    ],
)
def test_a_line_without_a_positive_scale_is_refused_by_its_number(cache: Path, line: str) -> None:
    cache.write_text(HEADER + "good: 3c010a14\n" + line + "\n")
    with pytest.raises(CalibrationError, match="line 3"):
        read_cache(cache)


def test_a_missing_or_binary_cache_is_our_error(cache: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot read"):
        read_cache(cache)
    cache.write_bytes(b"TRT-\xff\xfe")
    with pytest.raises(CalibrationError, match="cannot read"):
        read_cache(cache)


@pytest.mark.parametrize("amax", [1e-45, 1e-40, 3e38])
def test_even_an_extreme_range_gives_a_cache_that_can_be_read(cache: Path, amax: float) -> None:
    write_cache({"x": amax}, cache)
    assert read_cache(cache)["x"] > 0


def test_names_keep_spaces_at_their_ends(cache: Path) -> None:
    write_cache({" x ": 1.0, "y:": 2.0, ":": 3.0}, cache)
    assert list(read_cache(cache)) == [" x ", "y:", ":"]
