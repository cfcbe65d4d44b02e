"""What our code uses of TensorRT exists in every version it claims, where it says it is used."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import resnet_edge.backends.tensorrt as package
from resnet_edge.backends.tensorrt.features import TrtFeatures
from tests.backends.tensorrt.usage import Use, uses_of
from tests.conftest import require
from tests.emulation.bindings import VERSIONS, run_with_bindings

WITH_RTX = sorted(Path(package.__file__).parent.glob("*.py"))
FILES = [file for file in WITH_RTX if file.name != "rtx.py"]


def look(names: list[list[str]]) -> list[Any]:
    """Return the features found and, for every owner and attribute, its docstring or None."""
    import tensorrt

    from resnet_edge.backends.tensorrt.features import TrtFeatures

    def find(owner: str, name: str) -> str | None:
        found = tensorrt
        for part in (*owner.split("."), name) if owner else (name,):
            if not hasattr(found, part):
                return None
            found = getattr(found, part)
        return found.__doc__ or ""

    return [vars(TrtFeatures.of(tensorrt)), [find(*pair) for pair in names]]


@cache
def looked_up(version: str) -> tuple[dict[str, bool], dict[tuple[str, str], str | None]]:
    names = sorted({(use.owner, use.name) for use in uses_of(FILES)})
    features, docs = run_with_bindings(version, look, names)
    return features, dict(zip(names, docs, strict=True))


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_used_exists_in_every_version_that_reaches_it(version: str) -> None:
    features, docs = looked_up(version)
    reached = [use for use in uses_of(FILES) if all(features[g] for g in use.guards)]
    assert len(reached) > 80
    assert not [f"{u.where} {u.owner}.{u.name}" for u in reached if docs[u.owner, u.name] is None]
    assert not unknown_keywords(reached, docs)


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_that_returns_an_object_gives_it_an_annotated_name(version: str) -> None:
    _, docs = looked_up(version)
    bound = [use for use in uses_of(FILES) if use.bound and docs[use.owner, use.name]]
    returned = {
        use.where: found[1]
        for use in bound
        if (found := re.search(r"-> \w+\.tensorrt\.(\w+)", docs[use.owner, use.name] or ""))
    }
    assert not returned


EXPECTED = {
    "8.6": {
        "weak", "batch_flag", "calibrators", "dla", "timing_cache", "hardware_compatibility",
        "profile_sharing", "host_code",
    },
    "10.3": {
        "weak", "strong", "batch_flag", "calibrators", "dla", "timing_cache",
        "hardware_compatibility", "profile_sharing", "progress", "node_names", "host_code",
    },
    "11.4": {
        "strong", "dla", "timing_cache", "hardware_compatibility", "progress", "node_names",
        "host_code",
    },
}  # fmt: skip
EXPECTED["10.13"] = EXPECTED["10.16"] = EXPECTED["10.3"]


@pytest.mark.parametrize("version", VERSIONS)
def test_features_are_found_on_the_real_modules(version: str) -> None:
    features, _ = looked_up(version)
    assert {name for name, there in features.items() if there} == EXPECTED[version]


def test_features_of_tensorrt_for_rtx() -> None:
    features = TrtFeatures.of(require("tensorrt_rtx"))
    assert {name for name, there in vars(features).items() if there} == {
        "strong", "ahead_of_time", "progress", "node_names", "runtime_cache", "validity",
    }  # fmt: skip


def test_everything_used_exists_in_tensorrt_for_rtx() -> None:
    trt = require("tensorrt_rtx")
    features = TrtFeatures.of(trt)
    docs: dict[tuple[str, str], str | None] = {}
    reached = [u for u in uses_of(WITH_RTX) if all(getattr(features, g) for g in u.guards)]
    for use in reached:
        owner = trt
        for part in use.owner.split(".") if use.owner else ():
            owner = getattr(owner, part)
        found = getattr(owner, use.name, None)
        docs[use.owner, use.name] = None if found is None else found.__doc__ or ""
    assert {("IRuntimeConfig", "cuda_graph_strategy"), ("Runtime", "get_engine_validity")} <= set(
        docs
    )
    assert not [f"{u.where} {u.owner}.{u.name}" for u in reached if docs[u.owner, u.name] is None]
    assert not unknown_keywords(reached, docs)


def test_every_feature_guards_something() -> None:
    guards = {guard for use in uses_of(WITH_RTX) for guard in use.guards}
    asked = "".join(inspect.getsource(TrtFeatures)) + "".join(f.read_text() for f in WITH_RTX)
    for feature in fields(TrtFeatures):
        assert feature.name in guards or asked.count(f"features.{feature.name}"), feature.name
    assert {"weak", "strong", "calibrators", "dla", "progress", "ahead_of_time"} <= guards


def test_the_reader_sees_what_it_should(tmp_path: Path) -> None:
    source = tmp_path / "code.py"
    source.write_text(
        "def outer(trt, features, builder: tensorrt.Builder):\n"
        "    if features.strong and builder.num_DLA_cores:\n"
        "        inner(builder, trt.BuilderFlag.FP16)\n"
        "    elif features.weak:\n"
        "        builder.reset(key=1)\n"
        "    level = trt.ILogger.Severity\n"
        "    made = builder.create_network(0)\n"
        "    return level.ERROR\n"
        "def inner(b: tensorrt.Builder, flag):\n"
        "    b.max_threads = 2\n"
    )
    found = {(u.owner, u.name): u for u in uses_of([source])}
    assert found["Builder", "max_threads"].guards == {"strong"}
    assert found["Builder", "num_DLA_cores"].guards == {"strong"}
    assert found["BuilderFlag", "FP16"].guards == {"strong"}
    assert found["Builder", "reset"].guards == {"weak"}
    assert found["Builder", "reset"].keywords == ("key",)
    assert not found["ILogger.Severity", "ERROR"].guards
    assert found["Builder", "create_network"].bound


def test_a_name_that_is_annotated_only_here_and_there_is_found(tmp_path: Path) -> None:
    source = tmp_path / "code.py"
    source.write_text(
        "def one(builder: tensorrt.Builder): ...\ndef two(trt):\n    builder = trt.Builder(0)\n"
    )
    with pytest.raises(AssertionError, match=r"code\.py:3"):
        uses_of([source])


def unknown_keywords(uses: list[Use], docs: dict[tuple[str, str], str | None]) -> list[str]:
    return [
        f"{use.where} {use.owner}.{use.name}({keyword}=)"
        for use in uses
        for keyword in use.keywords
        if not re.search(rf"\b{keyword}: ", docs[use.owner, use.name] or "")
    ]
