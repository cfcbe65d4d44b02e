"""A manifest is checked when it is read: it may be anybody's."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Manifest, check_name
from resnet_edge.bundle.names import MANIFEST, MODEL
from resnet_edge.bundle.provenance import build_record, builds, images_of, model_record
from resnet_edge.cli.app import run
from resnet_edge.errors import BundleError, ConfigError
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD = REPOSITORY / "tests" / "bundle" / "fixtures" / "2026-11-24" / "torch"
CLIMBING = [
    "../secret", "a/../../secret", "/etc/passwd", "..", ".", "", "a//b", "a/./b", "a/",
    "..\\secret", "C:/secret", "nul\0", "line\nbreak",
]  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A bundle that nothing else uses."""
    return shutil.copytree(OLD, tmp_path / "bundle")


@pytest.fixture
def change(old: Path) -> Callable[[Callable[[dict[str, Any]], object]], None]:
    """Edit the manifest's JSON in place."""

    def _change(edit: Callable[[dict[str, Any]], object]) -> None:
        value = json.loads((old / MANIFEST).read_text())
        edit(value)
        (old / MANIFEST).write_text(json.dumps(value))

    return _change


def test_what_is_read_is_written_again_without_loss(old: Path) -> None:
    before = json.loads((old / MANIFEST).read_text())
    Manifest.read(old / MANIFEST).write(old / MANIFEST)
    assert json.loads((old / MANIFEST).read_text()) == before


@pytest.mark.parametrize("name", CLIMBING)
def test_a_name_that_leads_out_of_the_bundle_is_refused(old: Path, change: Any, name: str) -> None:
    change(lambda value: value["artifacts"].update({name: value["artifacts"][MODEL]}))
    with pytest.raises(BundleError, match="not the name of a file inside the bundle"):
        Bundle.open(old)


@given(st.lists(st.sampled_from(["a", "b.onnx", ".", "..", "", "/", "engines"]), max_size=5))
def test_a_name_that_is_accepted_stays_inside(parts: list[str]) -> None:
    name = "/".join(parts)
    try:
        check_name(name)
    except ConfigError:
        return
    assert ".." not in name.split("/")
    assert not name.startswith("/")
    assert name == "/".join(part for part in name.split("/") if part not in ("", "."))


def test_asking_for_a_file_outside_is_refused(old: Path) -> None:
    bundle = Bundle.open(old)
    with pytest.raises(BundleError, match="inside the bundle"):
        bundle.file("../../etc/passwd")


def test_a_link_that_leads_out_is_refused(old: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.onnx").write_bytes((old / MODEL).read_bytes())
    (old / MODEL).unlink()
    (old / MODEL).symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(old).artifact(MODEL)


def test_a_folder_that_is_a_link_out_is_refused(old: Path, tmp_path: Path) -> None:
    shutil.move(old / "engines", tmp_path / "engines")
    (old / "engines").symlink_to(tmp_path / "engines")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(old).artifact("engines/cpu/model.int8.onnx")


def test_a_bundle_that_is_reached_through_a_link_is_one(old: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(old)
    assert Bundle.open(tmp_path / "link").artifact(MODEL).is_file()


def test_a_manifest_without_a_model_is_our_error_for_every_command(
    old: Path, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change(lambda value: value["artifacts"].pop(MODEL))
    for command in ("inspect", "verify", "bench", "quantize"):
        assert run([command, str(old), "--json"]) == 1
        error = json.loads(capsys.readouterr().out)["error"]
        assert (error["type"], "records no model.onnx" in error["message"]) == ("BundleError", True)


def test_a_sidecar_cannot_name_a_graph_outside(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside.onnx").write_bytes((old / MODEL).read_bytes())
    sidecar = old / "engines" / "cpu" / "model.int8.onnx.json"
    value = {**json.loads(sidecar.read_text()), "onnx": "../outside.onnx"}
    sidecar.write_text(json.dumps(value))
    engine = sidecar.with_suffix("")
    assert run(["verify", str(old), "--engine", str(engine), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert "not the name of a file inside the bundle" in error["message"]


@pytest.mark.parametrize("key", ["sha256", "bytes", "stage", "config", "inputs", "details"])
@pytest.mark.parametrize("damage", [3.5, [], "x"], ids=str)
def test_a_record_with_a_value_of_another_type_is_our_error(
    old: Path, change: Any, key: str, damage: Any
) -> None:
    if key == "stage" and damage == "x":
        damage = None
    change(lambda value: value["artifacts"][MODEL].update({key: damage}))
    with pytest.raises(BundleError):
        Bundle.open(old)


def test_the_records_of_model_and_engines_are_typed(old: Path) -> None:
    bundle = Bundle.open(old)
    made = model_record(bundle)
    assert made.nodes["Conv"] > 3
    assert made.network is not None
    assert [build_record(bundle, name).target.name for name in builds(bundle)] == [
        "cpu", "rtx-4090",
    ]  # fmt: skip
    assert [build_record(bundle, name).precision for name in builds(bundle)] == ["int8", "fp16"]


def test_a_damaged_record_of_an_engine_is_our_error(old: Path, change: Any) -> None:
    name = "engines/cpu/model.int8.onnx"
    change(lambda value: value["artifacts"][name]["config"].update({"target": "cpu"}))
    with pytest.raises(BundleError, match=r"target: must be a table"):
        build_record(Bundle.open(old), name)


def test_no_path_of_the_owner_travels_in_a_new_bundle(
    exported: Callable[[str], Bundle], shipped_images: Path
) -> None:
    bundle = exported("tiny")
    home = str(bundle.path.parent)
    for file in (p for p in bundle.path.rglob("*") if p.is_file()):
        content = file.read_bytes()
        assert home.encode() not in content, file
        assert str(shipped_images).encode() not in content, file
    assert bundle.model.source == "tiny.safetensors"
    assert images_of(bundle) == (shipped_images / "test").resolve()  # known here all the same
