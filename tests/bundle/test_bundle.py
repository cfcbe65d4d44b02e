from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Manifest, ModelInfo, Record
from resnet_edge.bundle.names import LOCK, MANIFEST
from resnet_edge.errors import BundleError, ResnetEdgeError
from resnet_edge.images.spec import FASHION_MNIST, IMAGENET
from resnet_edge.schema import decode, encode

if TYPE_CHECKING:
    from pathlib import Path

INFO = ModelInfo(
    architecture="resnet20",
    num_classes=2,
    labels=("cat", "größer"),
    image_spec=FASHION_MNIST,
    parameters=269_722,
    macs=None,
    source="model.safetensors",
    source_sha256="ab" * 32,
)
RECORD = Record(
    stage="export",
    config={"simplify": True, "sizes": (1, 2), "nested": {"rate": 0.1, "none": None}},
    inputs={"checkpoint": "cd" * 32},
    tools={"torch": "2.13.0"},
    details={"nodes": {"Conv": 20}},
)
NAME = "model.onnx"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with one artifact."""
    bundle = Bundle.create(tmp_path / "bundle", INFO)
    write(bundle, NAME, "weights")
    bundle.record(NAME, RECORD)
    return bundle


def write(bundle: Bundle, name: str, content: str) -> None:
    bundle.file(name).parent.mkdir(parents=True, exist_ok=True)
    bundle.file(name).write_text(content)


def reopened(bundle: Bundle) -> Bundle:
    return Bundle.open(bundle.path)


def test_a_bundle_is_what_it_was_when_it_is_opened_again(bundle: Bundle) -> None:
    again = reopened(bundle)
    assert again.model == INFO
    assert again.names() == (NAME,)
    assert again.artifact(NAME).read_text() == "weights"
    assert again.sha256(NAME) == hashlib.sha256(b"weights").hexdigest()
    assert again.entry(NAME) == bundle.entry(NAME)
    assert again.entry(NAME).bytes == len("weights")
    assert again.entry(NAME).details == {"nodes": {"Conv": 20}}


@given(
    labels=st.none() | st.lists(st.text(max_size=5), max_size=3).map(tuple),
    parameters=st.none() | st.integers(0),
    spec=st.sampled_from([FASHION_MNIST, IMAGENET, replace(IMAGENET, input="uint8")]),
    text=st.text(max_size=10),
)
def test_a_model_description_round_trips_through_json(
    labels: tuple[str, ...] | None, parameters: int | None, spec: Any, text: str
) -> None:
    info = replace(INFO, labels=labels, parameters=parameters, image_spec=spec, source=text)
    assert decode(ModelInfo, json.loads(json.dumps(encode(info))), "a manifest") == info


def test_an_artifact_is_fresh_while_everything_is_as_recorded(bundle: Bundle) -> None:
    assert bundle.is_fresh(NAME, RECORD)
    assert reopened(bundle).is_fresh(NAME, RECORD)


def test_tool_versions_and_details_do_not_make_an_artifact_stale(bundle: Bundle) -> None:
    assert bundle.is_fresh(NAME, replace(RECORD, tools={"torch": "3.0"}, details={}))


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "quantize"},
        {"config": {}},
        {"config": {**RECORD.config, "simplify": False}},
        {"config": {**RECORD.config, "more": 1}},
        {"config": {**RECORD.config, "sizes": (2, 1)}},
        {"inputs": {}},
        {"inputs": {"checkpoint": "ef" * 32}},
        {"inputs": {**RECORD.inputs, "images": "01" * 32}},
    ],
    ids=str,
)
def test_another_stage_config_or_input_makes_an_artifact_stale(
    bundle: Bundle, change: dict[str, Any]
) -> None:
    assert not bundle.is_fresh(NAME, replace(RECORD, **change))
    assert not reopened(bundle).is_fresh(NAME, replace(RECORD, **change))


def test_another_content_makes_an_artifact_stale(bundle: Bundle) -> None:
    write(bundle, NAME, "Weights")
    assert not bundle.is_fresh(NAME, RECORD)
    bundle.file(NAME).unlink()
    assert not bundle.is_fresh(NAME, RECORD)
    bundle.file(NAME).mkdir()
    assert not bundle.is_fresh(NAME, RECORD)


def test_what_was_never_recorded_is_not_fresh(bundle: Bundle) -> None:
    write(bundle, "other", "x")
    assert not bundle.is_fresh("other", RECORD)


@pytest.mark.parametrize("content", ["Weights", "", "weights "])
def test_an_artifact_that_was_tampered_with_is_refused(bundle: Bundle, content: str) -> None:
    write(bundle, NAME, content)
    for opened in (bundle, reopened(bundle)):
        with pytest.raises(BundleError, match="not the file the bundle recorded") as caught:
            opened.artifact(NAME)
        assert "run the stage that made it again" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("calibration.json", "calibrate"),
        ("model.int8.onnx", "quantize"),
        ("reference.npz", "export"),
    ],
)
def test_a_missing_artifact_is_refused_with_the_command_that_makes_it(
    bundle: Bundle, name: str, command: str
) -> None:
    with pytest.raises(BundleError, match=f"has no {name}") as caught:
        bundle.artifact(name)
    assert f"resnet-edge {command} {bundle.path}" in (caught.value.hint or "")


def test_a_lost_artifact_is_refused_with_the_stage_that_made_it(bundle: Bundle) -> None:
    write(bundle, "x.bin", "x")
    bundle.record("x.bin", Record("calibrate"))
    bundle.file("x.bin").unlink()
    with pytest.raises(BundleError, match=r"has no x\.bin") as caught:
        bundle.artifact("x.bin")
    assert "resnet-edge calibrate" in (caught.value.hint or "")


def test_artifacts_are_listed_oldest_first(bundle: Bundle) -> None:
    for name in ("engines/cpu/a.onnx", "b"):
        write(bundle, name, name)
        bundle.record(name, RECORD)
    bundle.record(NAME, RECORD)  # made once more
    assert bundle.names() == ("engines/cpu/a.onnx", "b", NAME)
    assert reopened(bundle).names() == bundle.names()


def test_a_record_is_on_disk_at_once_and_no_other_file_is(bundle: Bundle) -> None:
    assert {p.name for p in bundle.path.iterdir()} == {MANIFEST, NAME, LOCK}
    with pytest.raises(FileNotFoundError):
        bundle.record("missing", RECORD)
    assert reopened(bundle).names() == (NAME,)


def test_a_copied_bundle_works_where_it_was_copied_to(bundle: Bundle, tmp_path: Path) -> None:
    moved = Bundle.open(bundle.path.rename(tmp_path / "device"))
    assert moved.is_fresh(NAME, RECORD)
    assert moved.artifact(NAME) == tmp_path / "device" / NAME


def test_creating_a_bundle_writes_nothing_yet(tmp_path: Path) -> None:
    assert Bundle.create(tmp_path / "new" / "bundle", INFO).names() == ()
    (tmp_path / "empty").mkdir()
    assert Bundle.create(tmp_path / "empty", INFO).names() == ()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty"]


def test_creating_over_a_bundle_keeps_its_artifacts_and_takes_the_new_model(
    bundle: Bundle,
) -> None:
    other = replace(INFO, source_sha256="ff" * 32)
    again = Bundle.create(bundle.path, other)
    assert again.model == other
    assert again.is_fresh(NAME, RECORD)
    again.save()
    assert reopened(bundle).model == other


def test_a_directory_with_other_things_in_it_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    for path in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(BundleError, match="is not a bundle") as caught:
            Bundle.create(path, INFO)
        assert "-o" in (caught.value.hint or "")
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_opening_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleError, match=r"no bundle\.json") as caught:
            Bundle.open(path)
        assert "resnet-edge export" in (caught.value.hint or "")


DAMAGE: dict[str, Any] = {
    "not an object": [],
    "another schema": {"schema": 2},
    "no schema": {"schema": None},
    "no artifacts": {"artifacts": None},
    "a list of artifacts": {"artifacts": []},
    "an artifact that is a number": {"artifacts": {NAME: 3}},
    "an artifact without a hash": {"artifacts": {NAME: {"stage": "export"}}},
    "no model": {"model": None},
    "a model without keys": {"model": {}},
    "a model with an unknown key": {"model": {**encode(INFO), "more": 1}},
    "labels that are a number": {"model": {**encode(INFO), "labels": 5}},
    "an image spec without keys": {"model": {**encode(INFO), "image_spec": {}}},
    "an image spec that is text": {"model": {**encode(INFO), "image_spec": "rgb"}},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_manifest_is_our_error(bundle: Bundle, damage: Any) -> None:
    path = bundle.path / MANIFEST
    value = {**json.loads(path.read_text()), **damage} if isinstance(damage, dict) else damage
    path.write_text(json.dumps(value))
    with pytest.raises(ResnetEdgeError):
        reopened(bundle).artifact(NAME)


@given(data=st.data())
def test_a_manifest_cut_anywhere_is_our_error(bundle: Bundle, data: st.DataObject) -> None:
    path = bundle.path / MANIFEST
    Manifest(INFO, {NAME: bundle.entry(NAME)}).write(path)
    content = path.read_bytes().rstrip()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(BundleError, match="not readable JSON"):
        reopened(bundle)
