from __future__ import annotations

import logging
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from onnx import numpy_helper

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import CACHE, MODEL, PARTIAL, TABLE
from resnet_edge.calibrate import collect as module
from resnet_edge.calibrate.collect import Collected, Partial, collect
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import Recipe
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.folder import FolderImages
from resnet_edge.images.opening import open_images
from resnet_edge.progress import SILENT
from resnet_edge.quantize.placement import place
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resnet_edge.progress import Progress, Task

require("onnxruntime")

COUNT, BATCH = 42, 4
BROKEN = (20, 21, 22, 23)  # just under a tenth, and a whole batch: the sixth
GOOD = COUNT - len(BROKEN)
RECIPE = Recipe("test", "few images", "mse", images=COUNT)


class Listener:
    """Presses Ctrl-C at the given step, and remembers what it was told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.steps: list[int] = []
        self.statuses: list[str | None] = []

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        yield self

    def advance(self, steps: int = 1, *, status: str | None = None) -> None:
        self.steps.append(steps)
        self.statuses.append(status)
        if len(self.steps) == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def small_batches_stored_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 1 << 40)
    monkeypatch.setattr(module, "_MAX_BATCH", BATCH)
    monkeypatch.setattr(module, "_STORE_SECONDS", 0.0)


@pytest.fixture
def bundle(exported: Callable[[str], Bundle], tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(exported("tiny").path, tmp_path / "bundle")))


@pytest.fixture
def images(shipped_images: Path, tmp_path: Path) -> FolderImages:
    """Image files, some of them broken."""
    source = open_images(shipped_images / "calibration")
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(COUNT):
        source.load(i).save(folder / f"{i:02d}.png")
    files = tuple(sorted(folder.iterdir()))
    for i in BROKEN:
        files[i].write_bytes(b"not an image")
    return FolderImages(folder, files, labels=None)


@pytest.fixture
def partial(tmp_path: Path) -> Partial:
    return Partial(tmp_path / "partial.npz", "this pass")


def run(
    bundle: Bundle,
    images: FolderImages,
    partial: Partial | None = None,
    progress: Progress = SILENT,
) -> Collected:
    model = load_graph(bundle.artifact(MODEL))
    return collect(
        model,
        place(model.graph).tensors,
        images,
        bundle.model.image_spec,
        indices=range(COUNT),
        partial=partial,
        progress=progress,
    )


def everything(collected: Collected) -> tuple[Any, ...]:
    histograms = {
        name: (h.counts.tobytes(), h.minimum, h.maximum) for name, h in collected.histograms.items()
    }
    return histograms, collected.indices, collected.skipped


def interrupt(bundle: Bundle, images: FolderImages, partial: Partial, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(bundle, images, partial, Listener(step))


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all batches that a session ran."""
    sizes: list[int] = []
    original = OnnxRuntimeSession.run

    def spy(self: OnnxRuntimeSession, feed: Any) -> Any:
        sizes.append(len(feed["input"]))
        return original(self, feed)

    monkeypatch.setattr(OnnxRuntimeSession, "run", spy)
    return sizes


@pytest.mark.parametrize("step", [1, 2, 5, 6, 10])
def test_a_pass_interrupted_at_any_step_ends_as_one_that_was_not(
    bundle: Bundle, images: FolderImages, partial: Partial, fed: list[int], step: int
) -> None:
    expected = everything(run(bundle, images))
    interrupt(bundle, images, partial, step)
    fed.clear()
    listener = Listener()
    assert everything(run(bundle, images, partial, listener)) == expected
    done = min(step * BATCH, GOOD)
    passed_over = len(BROKEN) if step > 5 else 0
    assert sum(fed[1:]) == GOOD - done  # the first is a probe of the batch size
    assert listener.steps[0] == done + passed_over
    assert sum(listener.steps) == GOOD + passed_over


def test_a_pass_may_be_interrupted_again_and_again(
    bundle: Bundle, images: FolderImages, partial: Partial
) -> None:
    expected = everything(run(bundle, images))
    for _ in range(4):
        interrupt(bundle, images, partial, 3)
    listener = Listener()
    assert everything(run(bundle, images, partial, listener)) == expected
    assert listener.steps[0] > COUNT // 2


def test_a_pass_interrupted_before_the_first_batch_was_stored_starts_anew(
    bundle: Bundle, images: FolderImages, partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STORE_SECONDS", 1e9)
    interrupt(bundle, images, partial, 3)
    assert not partial.path.exists()
    assert everything(run(bundle, images, partial)) == everything(run(bundle, images))


def test_the_state_of_another_pass_is_ignored(
    bundle: Bundle, images: FolderImages, partial: Partial
) -> None:
    interrupt(bundle, images, partial, 6)
    listener = Listener()
    other = run(bundle, images, replace(partial, identity="another"), listener)
    assert everything(other) == everything(run(bundle, images))
    assert sum(listener.steps) == GOOD


@pytest.mark.parametrize("what", ["weights", "tensors"])
def test_the_state_of_another_model_or_other_tensors_is_ignored(
    bundle: Bundle, images: FolderImages, partial: Partial, what: str
) -> None:
    interrupt(bundle, images, partial, 6)
    model = load_graph(bundle.artifact(MODEL))
    tensors = place(model.graph).tensors
    if what == "weights":
        weight = model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    else:
        tensors = tensors[:-1]
    spec, listener = bundle.model.image_spec, Listener()
    collect(model, tensors, images, spec, indices=range(COUNT), partial=partial, progress=listener)
    assert sum(listener.steps) == GOOD


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_state_is_ignored_with_a_warning(
    bundle: Bundle,
    images: FolderImages,
    partial: Partial,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    interrupt(bundle, images, partial, 6)
    whole = partial.path.read_bytes()
    middle = whole.index(b"counts.npy") + 400
    damaged = {
        "empty": b"",
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "foreign": b"something else entirely",
    }
    partial.path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        assert everything(run(bundle, images, partial)) == everything(run(bundle, images))
    assert f"{partial.path} is damaged" in caplog.text


def test_broken_images_count_against_all_images_after_a_resume_too(
    bundle: Bundle, images: FolderImages, partial: Partial
) -> None:
    """Six images are left; the four broken before them would be more than a tenth of those."""
    interrupt(bundle, images, partial, 8)
    assert len(run(bundle, images, partial).skipped) == len(BROKEN)


def test_the_state_is_stored_only_every_few_seconds(
    bundle: Bundle, images: FolderImages, partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))  # a second passes with every batch
    stored: list[int] = []
    store = module._store

    def spy(partial: Partial, state: Collected) -> None:
        stored.append(len(state.indices))
        store(partial, state)

    monkeypatch.setattr(module, "_store", spy)
    monkeypatch.setattr(module, "_STORE_SECONDS", 4.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    listener = Listener()
    run(bundle, images, partial, listener)
    assert stored == [4 * BATCH, 8 * BATCH]
    assert listener.statuses == ["4.0 images/s"] * 9 + ["3.8 images/s"]


def test_nothing_is_stored_where_nobody_asks_for_it(
    bundle: Bundle, images: FolderImages, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    run(bundle, images)
    assert sorted(tmp_path.iterdir()) == before


def test_progress_says_how_many_images_a_second(bundle: Bundle, images: FolderImages) -> None:
    listener = Listener()
    run(bundle, images, progress=listener)
    assert all(s is not None and s.endswith(" images/s") for s in listener.statuses)
    assert all(float((s or "0").split()[0]) > 0 for s in listener.statuses)


def files(bundle: Bundle) -> set[str]:
    return {p.name for p in bundle.path.iterdir()}


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_calibrate_goes_on_after_a_kill_even_with_another_recipe(
    bundle: Bundle, images: FolderImages, tmp_path: Path, method: str
) -> None:
    other = Bundle.open(Path(shutil.copytree(bundle.path, tmp_path / "other")))
    expected = calibrate(other, images, replace(RECIPE, method=method)).table
    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, images, RECIPE, progress=Listener(7))
    assert PARTIAL in files(bundle)
    assert TABLE not in files(bundle)
    listener = Listener()
    table = calibrate(bundle, images, replace(RECIPE, method=method), progress=listener).table
    assert table == expected
    assert bundle.file(TABLE).read_bytes() == other.file(TABLE).read_bytes()
    assert bundle.file(CACHE).read_bytes() == other.file(CACHE).read_bytes()
    assert listener.steps[0] > 20
    assert PARTIAL not in files(bundle)


def test_calibrate_on_other_images_starts_anew(
    bundle: Bundle, images: FolderImages, shipped_images: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, images, RECIPE, progress=Listener(7))
    others = open_images(shipped_images / "test")
    assert isinstance(others, ArrayImages)
    listener = Listener()
    table = calibrate(bundle, others, RECIPE, progress=listener).table
    assert listener.steps[0] == BATCH
    assert len(table.images) == COUNT
    assert PARTIAL not in files(bundle)
