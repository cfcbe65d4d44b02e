from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.trtexec.layer_precisions import (
    LayerPrecision,
    format_layer_precisions,
    parse_layer_precisions,
    precisions_of,
)
from resnet_edge.errors import ConfigError

PRECISIONS = st.sampled_from(get_args(LayerPrecision))
PLAIN = st.text(st.characters(exclude_characters=",'*\n"), min_size=1, max_size=12)
PATTERNS = st.builds(lambda a, b: f"{a}*{b}", *[st.text("ab/.:", max_size=4)] * 2)
SETTINGS = st.dictionaries(st.one_of(PLAIN, PATTERNS), PRECISIONS, max_size=8)


def as_trtexec_reads(text: str) -> dict[str, str]:
    """``getLayerPrecisions`` of NVIDIA's sampleOptions.cpp, step by step."""
    found: dict[str, str] = {}
    for entry in text.split(",") if text else ():
        quoted = entry.split("'")
        if len(quoted) == 3:
            name, value = quoted[0] + quoted[1], quoted[2][1:]
        else:
            assert len(quoted) == 1
            *parts, value = entry.split(":")
            name = ":".join(parts)
        found[name.replace("'", "")] = value
    return found


def as_trtexec_matches(pattern: str, layer: str) -> bool:
    """``matchStringWithOneWildcard`` of NVIDIA's sampleUtils.cpp."""
    prefix, postfix = pattern.split("*", 1)
    return (
        len(layer) >= len(prefix) + len(postfix)
        and layer.find(prefix) == 0
        and layer.rfind(postfix) == len(layer) - len(postfix)
    )


@given(SETTINGS)
def test_what_is_written_is_read_back_in_the_same_order(
    settings: dict[str, LayerPrecision],
) -> None:
    text = format_layer_precisions(settings)
    assert list(parse_layer_precisions(text).items()) == list(settings.items())


@given(SETTINGS)
def test_trtexec_reads_the_same_from_what_is_written(settings: dict[str, LayerPrecision]) -> None:
    assert as_trtexec_reads(format_layer_precisions(settings)) == settings


@given(st.lists(st.tuples(PLAIN, PRECISIONS), max_size=8))
def test_what_trtexec_would_read_from_any_list_is_read_here(
    entries: list[tuple[str, LayerPrecision]],
) -> None:
    text = ",".join(f"{name}:{precision}" for name, precision in entries)
    assert parse_layer_precisions(text) == as_trtexec_reads(text)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_with_an_error_of_ours(text: str) -> None:
    try:
        settings = parse_layer_precisions(text)
    except ConfigError:
        return
    assert parse_layer_precisions(format_layer_precisions(settings)) == settings


@given(PATTERNS, st.text("ab/.:", max_size=8))
def test_a_pattern_matches_what_trtexec_says_it_matches(pattern: str, layer: str) -> None:
    matched = precisions_of([layer], {pattern: "int8"})
    assert matched == ({layer: "int8"} if as_trtexec_matches(pattern, layer) else {})


def test_the_documented_example() -> None:
    settings: dict[str, LayerPrecision] = {"*": "fp16", "layer1.0.conv1": "int8", "fc:1": "fp32"}
    text = "*:fp16,layer1.0.conv1:int8,fc:1:fp32"
    assert format_layer_precisions(settings) == text
    assert parse_layer_precisions(text) == settings


def test_names_may_be_quoted() -> None:
    assert parse_layer_precisions("'a:b':int8,c:fp16") == {"a:b": "int8", "c": "fp16"}


def test_later_entries_override_earlier_ones() -> None:
    assert parse_layer_precisions("a:int8,b:fp16,a:fp32") == {"b": "fp16", "a": "fp32"}


def test_no_layers_are_an_empty_text() -> None:
    assert format_layer_precisions({}) == ""
    assert parse_layer_precisions("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int8", "'int8' is not 'layer:precision'"),
        ("a:int8,", "'' is not 'layer:precision'"),
        ("a:int4", "unknown precision 'int4'"),
        ("a:", "unknown precision ''"),
        (":int8", "the name is empty"),
        ("'a,b':int8", "is not 'layer:precision'"),
        ("a'b:int8", "a quote in it"),
        ("'a':int8':int8", "unknown precision"),
        ("a*b*:int8", "more than one"),
    ],
)
def test_what_the_grammar_does_not_allow_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="--layerPrecisions") as caught:
        parse_layer_precisions(text)
    assert message in caught.value.message


@pytest.mark.parametrize("name", ["", "a,b", "it's", "a\nb", "**"])
def test_a_name_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        format_layer_precisions({name: "int8"})


def test_a_name_goes_before_a_pattern_and_the_rest_is_left_out() -> None:
    settings: dict[str, LayerPrecision] = {
        "layer1*": "int8",
        "layer1.conv2": "fp16",
        "*conv3": "int8",
    }
    layers = ["layer1.conv1", "layer1.conv2", "layer1.conv3", "fc"]
    assert precisions_of(layers, settings) == {
        "layer1.conv1": "int8",
        "layer1.conv2": "fp16",
        "layer1.conv3": "int8",
    }


def test_patterns_that_disagree_on_a_layer_are_refused() -> None:
    with pytest.raises(ConfigError, match="disagree on the layer"):
        precisions_of(["layer1.conv1"], {"layer1*": "int8", "*": "fp16"})
