"""Options: what makes no sense is refused at once, what a backend lacks before it builds."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.registry import BACKENDS, get_backend
from resnet_edge.errors import ConfigError

CHANGED: dict[str, Any] = {
    "strongly_typed": True,
    "implicit": "ranges",
    "dla": 0,
    "compute_capabilities": ("8.6", "8.9"),
    "workspace": 64,
    "optimization_level": 0,
    "builds": 2,
    "version_compatible": True,
    "hardware_compatible": True,
    "sparsity": True,
    "timing_cache": False,
    "reduce_range": True,
}


def test_every_option_can_be_changed_here() -> None:
    assert [field.name for field in fields(BuildConfig)[3:]] == list(CHANGED)


@pytest.mark.parametrize("name", CHANGED)
def test_settings_hold_what_differs_from_the_default(name: str) -> None:
    value = CHANGED[name]
    plain = list(value) if isinstance(value, tuple) else value
    assert BuildConfig("int8", **{name: value}).settings == {name: plain}
    assert BuildConfig("int8", profile=(2, 2, 2), rest="fp32").settings == {}


@pytest.mark.parametrize("name", [name for name in CHANGED if name != "reduce_range"])
def test_the_cpu_has_none_of_the_options_of_gpus(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_backend("onnxruntime").check(BuildConfig("int8", **{name: CHANGED[name]}))
    flag = {"timing_cache": "--no-timing-cache", "compute_capabilities": "--compute-capability"}
    assert flag.get(name, f"--{name.replace('_', '-')}") in caught.value.message


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_only_claim_options_that_exist(backend: str) -> None:
    assert get_backend(backend).options <= set(CHANGED)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"profile": (0, 1, 1)}, "profile"),
        ({"profile": (4, 2, 8)}, "profile"),
        ({"workspace": 0}, "--workspace"),
        ({"optimization_level": 6}, "--optimization-level"),
        ({"optimization_level": -1}, "--optimization-level"),
        ({"builds": 0}, "--builds"),
        ({"precision": "fp16", "implicit": "ranges"}, "INT8"),
        ({"implicit": "ranges", "strongly_typed": True}, "--strongly-typed"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BuildConfig(**{"precision": "int8", **options})
