"""Nothing is lost when several commands work on one bundle at the same time."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from resnet_edge.bundle import bundle as module
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import LOCK, MANIFEST
from resnet_edge.errors import BundleError
from tests.conftest import REPOSITORY, require

if TYPE_CHECKING:
    from pathlib import Path

OLD = REPOSITORY / "tests" / "bundle" / "fixtures" / "2026-11-24" / "torch"
BUILDS = {
    "fp32": ("--target", "cpu"),
    "int8": ("--int8", "--target", "cpu"),
    "fp16": ("--fp16", "--target", "rtx-4090"),
    "fp32-rtx": ("--target", "rtx-4090"),
}


def _enter(path: Path, worker: int, count: int) -> None:
    bundle = Bundle.open(path)
    for number in range(count):
        name = f"extra/{worker}-{number}"
        bundle.file(name).parent.mkdir(exist_ok=True)
        bundle.file(name).write_text(name)
        bundle.record(name, Record("test"))


def test_entries_of_many_processes_are_all_there(tmp_path: Path) -> None:
    path = shutil.copytree(OLD, tmp_path / "bundle")
    before = Bundle.open(path).names()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_enter, args=(path, worker, 25)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    wanted = {f"extra/{worker}-{number}" for worker in range(4) for number in range(25)}
    assert set(Bundle.open(path).names()) == wanted | set(before)


def test_builds_that_are_started_together_are_all_recorded_ten_times(tmp_path: Path) -> None:
    require("tensorrt_rtx")
    for turn in range(10):
        path = shutil.copytree(OLD, tmp_path / f"bundle{turn}")
        shutil.rmtree(path / "engines")
        manifest = json.loads((path / MANIFEST).read_text())
        for name in [name for name in manifest["artifacts"] if name.startswith("engines/")]:
            del manifest["artifacts"][name]
        (path / MANIFEST).write_text(json.dumps(manifest))
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "resnet_edge", "build", str(path), *options, "-q"],
                stdout=subprocess.DEVNULL, cwd=tmp_path,
            )
            for options in BUILDS.values()
        ]  # fmt: skip
        assert [process.wait() for process in running] == [0] * len(BUILDS)
        found = {name for name in Bundle.open(path).names() if name.startswith("engines/")}
        assert found == {
            "engines/cpu/model.fp32.onnx", "engines/cpu/model.int8.onnx",
            "engines/rtx-4090/model.fp16.engine", "engines/rtx-4090/model.fp32.engine",
        }, turn  # fmt: skip
        for name in found:
            assert Bundle.open(path).artifact(name).is_file()


def test_the_lock_is_free_while_a_stage_works(tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(OLD, tmp_path / "bundle"))
    bundle.record("model.onnx", Record("test"))
    with FileLock(bundle.path / LOCK, timeout=0):
        assert bundle.artifact("model.onnx").is_file()  # reading needs none


def test_a_lock_that_is_held_is_told_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    bundle = Bundle.open(shutil.copytree(OLD, tmp_path / "bundle"))
    before = (bundle.path / MANIFEST).read_bytes()
    with (
        FileLock(bundle.path / LOCK),
        pytest.raises(BundleError, match="another command has been writing") as caught,
    ):
        bundle.record("model.onnx", Record("test"))
    assert LOCK in str(caught.value.hint)
    assert (bundle.path / MANIFEST).read_bytes() == before


def test_what_another_command_exported_meanwhile_is_kept(tmp_path: Path) -> None:
    path = shutil.copytree(OLD, tmp_path / "bundle")
    early, late = Bundle.open(path), Bundle.open(path)
    for bundle, name in ((early, "a"), (late, "b")):
        bundle.file(name).write_text(name)
        bundle.record(name, Record("test", details={"at": time.time()}))
    assert {"a", "b"} <= set(Bundle.open(path).names())
    assert late.names() == Bundle.open(path).names()
