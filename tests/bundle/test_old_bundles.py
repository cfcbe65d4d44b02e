"""Bundles that earlier versions wrote stay usable."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.cli.app import run
from tests.conftest import REPOSITORY, require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

require("onnxruntime")
FIXTURES = REPOSITORY / "tests" / "bundle" / "fixtures"
BUNDLES = [
    pytest.param(path, id=f"{path.parent.name}-{path.name}")
    for path in sorted(FIXTURES.glob("*/*"))
    if (path / "bundle.json").is_file()
]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, dict[str, Any]]]:
    monkeypatch.chdir(tmp_path)

    def _call(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = run([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return _call


@pytest.fixture(params=BUNDLES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an old bundle."""
    return shutil.copytree(request.param, tmp_path / "old")


def test_an_old_bundle_is_inspected(old: Path, call: Any) -> None:
    code, value = call("inspect", old)
    assert code == 0
    assert value["num_classes"] == 10
    recorded = json.loads((old / "bundle.json").read_text())["artifacts"]
    assert set(value["artifacts"]) == set(recorded)


def test_the_engine_of_an_old_bundle_is_proven_again(old: Path, call: Any) -> None:
    images = FIXTURES / "2026-11-24" / "few"
    engine = old / "engines" / "cpu" / "model.int8.onnx"
    code, value = call("verify", old, "--engine", engine, "--data", images, "--max-drop", 20)
    assert code == 0, value
    assert value["executed"] == "engine"
    assert value["n"] > 200


def test_what_an_old_bundle_holds_is_not_made_again(
    old: Path, call: Any, shipped_images: Path
) -> None:
    kept = (old / "calibration.json").read_bytes()
    recipe = json.loads(kept)["recipe"]["name"]
    data = shipped_images / "calibration"
    code, value = call("calibrate", old, "--data", data, "--recipe", recipe)
    assert (code, value["cached"]) == (0, True), value
    assert (old / "calibration.json").read_bytes() == kept
    code, value = call("build", old, "--int8", "--target", "cpu")
    assert (code, value["cached"]) == (0, True), value


def test_an_old_bundle_grows_by_new_engines(old: Path, call: Any) -> None:
    before = json.loads((old / "bundle.json").read_text())["artifacts"]
    code, value = call("build", old, "--target", "cpu")
    assert (code, value["precision"]) == (0, "fp32"), value
    after = json.loads((old / "bundle.json").read_text())["artifacts"]
    assert set(before) < set(after)
    assert {name: after[name] for name in before} == before
