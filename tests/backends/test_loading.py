"""An engine runs its author's native code, so it is asked first who built it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.backends.loading import open_engine
from resnet_edge.backends.registry import BACKENDS, get_backend
from resnet_edge.bundle.local import remember_engine
from resnet_edge.bundle.sidecar import read_sidecar
from resnet_edge.errors import EngineMismatchError
from tests.conftest import REPOSITORY, require

if TYPE_CHECKING:
    from pathlib import Path

OLD = REPOSITORY / "tests" / "bundle" / "fixtures" / "2026-11-24" / "torch"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the RTX backend was told to load; nothing is loaded."""
    calls: list[dict[str, Any]] = []
    kind = type(get_backend("tensorrt_rtx"))
    monkeypatch.setattr(kind, "open", lambda _, engine, sidecar, **options: calls.append(options))
    return calls


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version-compatible engine of somebody else's, with its sidecar."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = shutil.copytree(OLD, tmp_path / "bundle") / "engines/rtx-4090/model.fp16.engine"
    sidecar = path.with_name(path.name + ".json")
    value = json.loads(sidecar.read_text())
    value["settings"] = {"version_compatible": True, "trusted": True, "built_here": True}
    sidecar.write_text(json.dumps(value))
    return path


def test_an_engine_of_somebody_else_is_not_loaded_whatever_its_sidecar_says(
    engine: Path, opened: list[dict[str, Any]]
) -> None:
    with pytest.raises(EngineMismatchError, match="was not built here"):
        open_engine(engine)
    assert opened == []


def test_one_that_was_built_here_is_loaded_and_may_bring_its_code(
    engine: Path, opened: list[dict[str, Any]]
) -> None:
    remember_engine(read_sidecar(engine).engine_sha256)
    open_engine(engine)
    assert opened == [{"host_code": True}]


def test_one_that_the_user_vouches_for_is_loaded(
    engine: Path, opened: list[dict[str, Any]]
) -> None:
    open_engine(engine, trusted=True)
    assert opened == [{"host_code": True}]


def test_a_changed_engine_is_not_the_one_that_was_built_here(
    engine: Path, opened: list[dict[str, Any]]
) -> None:
    remember_engine(read_sidecar(engine).engine_sha256)
    engine.write_bytes(engine.read_bytes() + b"\0")
    with pytest.raises(EngineMismatchError, match="not the file its sidecar describes"):
        open_engine(engine)
    assert opened == []


def test_an_onnx_file_runs_no_foreign_code_and_needs_no_trust() -> None:
    require("onnxruntime")
    with open_engine(OLD / "engines" / "cpu" / "model.int8.onnx") as session:
        assert session.inputs


def test_all_backends_but_onnx_runtime_run_native_code() -> None:
    assert {name for name in BACKENDS if not get_backend(name).native} == {"onnxruntime"}
