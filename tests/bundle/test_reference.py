from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.evaluate import run_all
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import EVALUATION, GOLDEN, MODEL
from resnet_edge.bundle.reference import Evaluated, Golden
from resnet_edge.errors import BundleError, DataError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.folder import FolderImages
from resnet_edge.images.opening import open_images
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable

require("onnxruntime")
KEYS = tuple(hashlib.sha256(bytes([i])).hexdigest() for i in range(8))


@pytest.fixture
def bundle(exported: Callable[[str], Bundle], tmp_path: Path) -> Bundle:
    """A bundle for one test alone."""
    return Bundle.open(Path(shutil.copytree(exported("tiny").path, tmp_path / "bundle")))


@pytest.fixture
def images(shipped_images: Path) -> ArrayImages:
    source = open_images(shipped_images / "calibration")
    assert isinstance(source, ArrayImages)
    return source


def evaluated(count: int = 4) -> Evaluated:
    logits = np.random.default_rng(0).normal(size=(count, 10)).astype(np.float32)
    return Evaluated(KEYS[:count], logits, "pytorch")


def record(bundle: Bundle) -> Record:
    """As the export stage records reference logits."""
    return Record(
        "export",
        config={"image_spec": bundle.model.image_spec.to_json()},
        inputs={"source": bundle.model.source_sha256, "model": bundle.sha256(MODEL)},
    )


def test_golden_images_round_trip(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    golden = Golden(
        rng.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8),
        rng.normal(size=(3, 10)).astype(np.float32),
        np.array([3, -1, 9]),
    )
    golden.save(bundle, record(bundle))
    loaded = Golden.load(Bundle.open(bundle.path))
    for name in ("pixels", "logits", "labels"):
        assert np.array_equal(getattr(loaded, name), getattr(golden, name))
        assert getattr(loaded, name).dtype == getattr(golden, name).dtype


@pytest.mark.parametrize("count", [0, 1, 8])
def test_reference_logits_round_trip(bundle: Bundle, count: int) -> None:
    evaluated(count).save(bundle, record(bundle))
    loaded = Evaluated.load(Bundle.open(bundle.path))
    assert loaded is not None
    assert (loaded.keys, loaded.source) == (KEYS[:count], "pytorch")
    assert np.array_equal(loaded.logits, evaluated(count).logits)
    assert loaded.logits.dtype == np.float32


@given(wanted=st.lists(st.sampled_from(KEYS[:4]), max_size=6))
def test_logits_are_looked_up_in_any_order(wanted: list[str]) -> None:
    found = evaluated().lookup(wanted)
    assert found is not None
    assert found.shape == (len(wanted), 10)
    for key, row in zip(wanted, found, strict=True):
        assert np.array_equal(row, evaluated().logits[KEYS.index(key)])


def test_logits_of_an_unknown_image_are_not_made_up() -> None:
    assert evaluated().lookup([KEYS[0], KEYS[7]]) is None


def test_a_bundle_without_an_evaluation_has_none(bundle: Bundle) -> None:
    assert Evaluated.load(bundle) is None


def test_logits_of_an_earlier_checkpoint_are_not_used(bundle: Bundle) -> None:
    evaluated().save(bundle, record(bundle))
    bundle = Bundle.create(bundle.path, replace(bundle.model, source_sha256="00" * 32))
    assert Evaluated.load(bundle) is None


def test_logits_of_another_preprocessing_are_not_used(bundle: Bundle) -> None:
    evaluated().save(bundle, record(bundle))
    spec = replace(bundle.model.image_spec, mean=(0.9,))
    bundle = Bundle.create(bundle.path, replace(bundle.model, image_spec=spec))
    assert Evaluated.load(bundle) is None


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"not an archive"],
    ids=["half", "empty", "another file"],
)  # fmt: skip
@pytest.mark.parametrize("name", [GOLDEN, EVALUATION])
def test_a_damaged_archive_is_our_error(
    bundle: Bundle, name: str, damage: Callable[[bytes], bytes]
) -> None:
    evaluated().save(bundle, record(bundle))
    path = bundle.file(name)
    path.write_bytes(damage(path.read_bytes()))
    bundle.record(name, record(bundle))  # so that not the hash but the content gives it away
    with pytest.raises(BundleError, match="is damaged"):
        (Golden if name == GOLDEN else Evaluated).load(bundle)


def test_an_archive_that_lacks_an_array_is_our_error(bundle: Bundle) -> None:
    np.savez(bundle.file(GOLDEN), pixels=np.zeros(1), logits=np.zeros(1))
    bundle.record(GOLDEN, record(bundle))
    with pytest.raises(BundleError, match="labels"):
        Golden.load(bundle)


def test_an_archive_that_wants_to_run_code_is_refused(bundle: Bundle) -> None:
    bomb: Any = np.array([print], dtype=object)
    np.savez(bundle.file(GOLDEN), pixels=bomb, logits=bomb, labels=bomb)
    bundle.record(GOLDEN, record(bundle))
    with pytest.raises(BundleError, match="damaged"):
        Golden.load(bundle)


def test_a_changed_archive_is_refused(bundle: Bundle) -> None:
    with bundle.file(GOLDEN).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match="not the file the bundle recorded"):
        Golden.load(bundle)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_running_over_images_gives_logits_and_indices_in_order(
    bundle: Bundle, images: ArrayImages, batch_size: int
) -> None:
    spec, indices = bundle.model.image_spec, [9, 3, 7, 0, 3]
    with OnnxRuntimeSession(bundle.artifact(MODEL)) as session:
        logits, kept, skipped = run_all(
            session, images, spec, indices=indices, batch_size=batch_size
        )
        alone = [
            session.run({"input": spec.to_input(spec.pixels(images.load(i))[None])})["logits"]
            for i in indices
        ]
    assert (kept, skipped) == (tuple(indices), [])
    assert logits.dtype == np.float32
    assert np.allclose(logits, np.concatenate(alone), rtol=1e-4, atol=1e-5)


def test_all_images_are_run_by_default(bundle: Bundle, images: ArrayImages) -> None:
    few = replace(images, pixels=images.pixels[:70], labels=None)
    with OnnxRuntimeSession(bundle.artifact(MODEL)) as session:
        logits, kept, _ = run_all(session, few, bundle.model.image_spec)
    assert (len(logits), kept) == (70, tuple(range(70)))


def test_broken_images_are_left_out_and_named(
    bundle: Bundle, images: ArrayImages, tmp_path: Path
) -> None:
    files = tuple(tmp_path / f"{i:02d}.png" for i in range(20))
    for i, path in enumerate(files):
        images.load(i).save(path)
    files[4].write_bytes(b"")
    folder = FolderImages(tmp_path, files, labels=None)
    with OnnxRuntimeSession(bundle.artifact(MODEL)) as session:
        logits, kept, skipped = run_all(session, folder, bundle.model.image_spec)
        assert kept == tuple(i for i in range(20) if i != 4)
        assert (len(logits), skipped) == (19, [str(files[4])])
        for path in files:
            path.write_bytes(b"")
        with pytest.raises(DataError, match="cannot be decoded"):
            run_all(session, folder, bundle.model.image_spec)
