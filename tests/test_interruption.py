"""Every stage can be interrupted and run again: nothing half-written, nothing lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from resnet_edge.build.stage import BuildConfig, build
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import Recipe
from resnet_edge.catalog.shipped import CHECKPOINT, find
from resnet_edge.catalog.targets import load_target
from resnet_edge.export.stage import export
from resnet_edge.images.opening import open_images
from resnet_edge.verify.candidate import find_candidate
from resnet_edge.verify.stage import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from resnet_edge.progress import Progress, Task


class _Impatient:
    """A listener whose user presses Ctrl-C at the given step.

    The start of a task, every advance and its end are a step each.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        self.advance()
        yield self
        self.advance()

    def advance(self, steps: int = 1, *, status: str | None = None) -> None:
        self.step -= 1
        if self.step <= 0:
            raise KeyboardInterrupt


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _calibrate(bundle: Path, images: Path, progress: Progress) -> object:
    source = open_images(images / "calibration")
    return calibrate(
        Bundle.open(bundle), source, Recipe("again", "", "minmax", images=330), progress=progress
    )


def _build(bundle: Path, images: Path, progress: Progress) -> object:
    return build(Bundle.open(bundle), load_target("cpu"), BuildConfig("int8"), progress=progress)


def _verify(bundle: Path, images: Path, progress: Progress) -> object:
    opened = Bundle.open(bundle)
    source = open_images(images / "test")
    source.pixels, source.labels = source.pixels[:200], source.labels[:200]  # type: ignore[attr-defined,index]
    return verify(opened, find_candidate(opened), source, progress=progress)


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        *((_calibrate, step) for step in (1, 2, 5, 8)),
        *((_build, step) for step in (1, 2, 3)),
        *((_verify, step) for step in (1, 3, 6, 9)),
    ],
)
def test_a_stage_interrupted_at_any_step_leaves_the_bundle_and_succeeds_later(
    bundle_copy: Path,
    shipped_images: Path,
    stage: Callable[[Path, Path, Progress], object],
    step: int,
) -> None:
    before = _files(bundle_copy)
    with pytest.raises(KeyboardInterrupt):
        stage(bundle_copy, shipped_images, _Impatient(step))
    after = _files(bundle_copy)
    assert not [name for name in after if ".tmp-" in name]
    assert {n: after[n] for n in before if n != "bundle.json"} == {
        n: b for n, b in before.items() if n != "bundle.json"
    }
    Bundle.open(bundle_copy)
    from resnet_edge.progress import SILENT

    stage(bundle_copy, shipped_images, SILENT)
    opened = Bundle.open(bundle_copy)
    for name in opened.names():
        opened.artifact(name)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupted_export_leaves_no_directory(tmp_path: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(find(CHECKPOINT), tmp_path / "bundle", progress=_Impatient(step))
    assert not (tmp_path / "bundle").exists()
    assert export(find(CHECKPOINT), tmp_path / "bundle").parity.accepted


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_training_with_130_and_the_same_command_resumes(
    easy_images: Path, tmp_path: Path, how: signal.Signals
) -> None:
    command = [
        sys.executable, "-m", "resnet_edge", "train", str(easy_images), "--arch", "plain20",
        "--epochs", "3", "--batch-size", "64", "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/3"):
            process.send_signal(how)
            break
    rest = process.stderr.read()
    process.wait()
    process.stderr.close()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert "run the same command again" in rest
    assert not list((tmp_path / "run").glob(".tmp-*"))
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "resuming after epoch" in again.stderr
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
