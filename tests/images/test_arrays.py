from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resnet_edge.errors import DataError
from resnet_edge.images.arrays import ArrayImages, ArrayInputs, RandomInputs, open_array_images
from resnet_edge.images.batches import Feeds, ImageBatches
from resnet_edge.images.labels import resolve_labels
from resnet_edge.images.opening import open_calibration, open_images
from resnet_edge.images.source import NetworkInputs
from resnet_edge.images.spec import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = ImageSpec(resize=None, crop=(5, 6), mean=(0.5,) * 3, std=(0.25,) * 3)
GRAY = ImageSpec(resize=None, crop=(5, 6), mean=(0.5,), std=(0.25,), color="gray")


def pixels(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def npy(folder: Path, array: Any, *, allow_pickle: bool = False) -> Path:
    np.save(folder / "a.npy", array, allow_pickle=allow_pickle)
    return folder / "a.npy"


def npz(folder: Path, *arrays: Any, **named: Any) -> Path:
    np.savez(folder / "a.npz", *arrays, **named)
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("shape", "mode"),
    [((3, 5, 6), "L"), ((3, 5, 6, 1), "L"), ((3, 5, 6, 3), "RGB"), ((3, 5, 6, 4), "RGBA")],
)
@pytest.mark.parametrize("write", [npy, npz])
def test_uint8_arrays_are_images(
    tmp_path: Path, write: Callable[..., Path], shape: tuple[int, ...], mode: str
) -> None:
    array = pixels(*shape)
    source = open_images(write(tmp_path, array))
    assert (len(source), source.labels, source.class_names) == (3, None, None)
    for i in range(3):
        image = source.load(i)
        assert image.mode == mode
        assert np.array_equal(np.asarray(image), array[i].squeeze())
        assert source.name(i) == f"{source.path} #{i}"


@pytest.mark.parametrize("name", ["images", "x", "input", None])
@pytest.mark.parametrize("label_name", ["labels", "y"])
def test_an_archive_holds_images_and_labels(
    tmp_path: Path, name: str | None, label_name: str
) -> None:
    array, labels = pixels(3, 5, 6), np.array([2, 0, 1], dtype=np.uint8)
    named: dict[str, Any] = {label_name: labels}
    path = (
        npz(tmp_path, array, **named) if name is None else npz(tmp_path, **named, **{name: array})
    )
    source = open_images(path)
    assert np.array_equal(np.asarray(source.load(1)), array[1])
    assert source.labels is not None
    assert source.labels.tolist() == [2, 0, 1]
    assert source.labels.dtype == np.int64
    found = resolve_labels(source, class_names=("a", "b", "c"), num_classes=3)
    assert found is not None
    assert found.tolist() == [2, 0, 1]


def test_the_named_array_wins_over_others_of_an_archive(tmp_path: Path) -> None:
    source = open_images(npz(tmp_path, first=pixels(2, 5, 6), images=pixels(3, 5, 6)))
    assert len(source) == 3


def test_an_archive_of_several_sets_is_not_guessed_at(tmp_path: Path) -> None:
    """Keras' mnist.npz holds the test images first; they must not be calibrated on."""
    path = npz(tmp_path, x_test=pixels(2, 5, 6), x_train=pixels(3, 5, 6), y_test=np.zeros(2, int))
    with pytest.raises(DataError, match=r"2 arrays.*x_test, x_train") as caught:
        open_images(path)
    assert "images" in (caught.value.hint or "")


def test_a_single_image_array_is_found_among_small_ones(tmp_path: Path) -> None:
    assert (
        len(open_images(npz(tmp_path, np.zeros(3), pixels(2, 5, 6), np.array("made by us")))) == 2
    )


def test_a_large_npy_file_stays_on_disk(tmp_path: Path) -> None:
    source = open_images(npy(tmp_path, pixels(3, 5, 6)))
    assert isinstance(source, ArrayImages)
    assert isinstance(source.pixels, np.memmap)
    assert not source.pixels.flags.writeable


def test_keys_are_those_of_the_same_pixels_in_any_format(tmp_path: Path) -> None:
    array = pixels(3, 5, 6)
    idx = ArrayImages(tmp_path, array, None)
    for source in (open_images(npy(tmp_path, array)), open_images(npz(tmp_path, array[..., None]))):
        assert [source.key(i) for i in range(3)] == [idx.key(i) for i in range(3)]
    inputs = open_calibration(npy(tmp_path, normal(2, 3, 5, 6)))
    assert inputs.key(1) == hashlib.sha256(normal(2, 3, 5, 6)[1].tobytes()).hexdigest()


def test_images_of_an_array_go_through_the_same_preprocessing(tmp_path: Path) -> None:
    array = pixels(7, 9, 8, 3)
    (batch,) = ImageBatches(open_images(npy(tmp_path, array)), SPEC)
    assert np.array_equal(batch.pixels, array[:, 2:7, 1:7])
    (batch,) = ImageBatches(open_images(npy(tmp_path, np.asfortranarray(array))), SPEC)
    assert np.array_equal(batch.pixels, array[:, 2:7, 1:7])


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (pixels(3, 5, 6, 2), "uint8 3 x 5 x 6 x 2"),
        (pixels(3, 3, 5, 6), "uint8 3 x 3 x 5 x 6"),
        (pixels(5, 6), "uint8 5 x 6"),
        (pixels(2, 3, 5, 6, 1), "uint8 2 x 3 x 5 x 6 x 1"),
        (np.uint8(3), "uint8 a single value"),
        (pixels(3, 5, 6).astype(np.int64), "int64"),
        (normal(3, 5, 6), "float32 3 x 5 x 6"),
        (normal(2, 3, 5, 6).astype(np.float64), "float64"),
        (normal(2, 3, 5, 6).astype(np.float16), "float16"),
        (np.zeros((0, 5, 6), np.uint8), "holds no image"),
        (np.zeros((3, 0, 6), np.uint8), "holds no image"),
        (np.array(["a", "b"]), "<U1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("write", [npy, npz])
def test_arrays_of_another_shape_or_type_are_refused_with_what_is_expected(
    tmp_path: Path, write: Callable[..., Path], array: Any, complaint: str
) -> None:
    for opener in (open_images, open_calibration):
        with pytest.raises(DataError, match=complaint) as caught:
            opener(write(tmp_path, array))
        assert "no image" in complaint or "N x H x W x C" in (caught.value.hint or "")


@pytest.mark.parametrize("array", [np.array([{"a": 1}]), np.array([pixels(2, 2), None], object)])
def test_arrays_of_objects_are_refused_because_they_can_run_code(
    tmp_path: Path, array: Any
) -> None:
    with pytest.raises(DataError, match="cannot read") as caught:
        open_images(npy(tmp_path, array, allow_pickle=True))
    assert "objects are refused" in (caught.value.hint or "")
    with pytest.raises(DataError, match="cannot read"):
        open_images(npz(tmp_path, array))


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(2, int),
        np.zeros((3, 1), int),
        np.array([0, -1, 1]),
        np.zeros(3),
        np.array(["a"] * 3),
    ],
    ids=["too few", "two dimensions", "negative", "float", "text"],
)
def test_labels_that_are_not_one_class_index_an_image_are_refused(
    tmp_path: Path, labels: Any
) -> None:
    with pytest.raises(DataError, match="for 3 images"):
        open_images(npz(tmp_path, images=pixels(3, 5, 6), labels=labels))


def test_a_labels_file_beside_an_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="belongs to a flat folder") as caught:
        open_images(npy(tmp_path, pixels(3, 5, 6)), labels=tmp_path / "labels.csv")
    assert "'labels'" in (caught.value.hint or "")


def test_any_other_file_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "images.zip").touch()
    for opener in (open_images, open_calibration):
        with pytest.raises(DataError, match=r"images\.zip is a file") as caught:
            opener(tmp_path / "images.zip")
        assert ".npz" in (caught.value.hint or "")
    with pytest.raises(DataError, match="no such"):
        open_calibration(tmp_path / "missing.npy")


def whole_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels(3, 5, 6))
    return buffer.getvalue()


def whole_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=pixels(3, 5, 6))
    return buffer.getvalue()


def foreign_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images", b"not an array")
    return buffer.getvalue()


@given(
    whole=st.sampled_from([whole_npy(), whole_npz(), foreign_zip()]),
    cut=st.integers(0, 400),
    position=st.integers(0, 400),
    patch=st.binary(max_size=8),
    suffix=st.sampled_from(["npy", "npz"]),
)
@example(whole=b"", cut=0, position=0, patch=b"", suffix="npy")
@example(whole=foreign_zip(), cut=400, position=400, patch=b"", suffix="npz")
@example(whole=whole_npy(), cut=400, position=61, patch=b"(9999999999999,)", suffix="npy")
@example(whole=whole_npy(), cut=400, position=61, patch=b"(-3, 5, 6)", suffix="npy")
def test_any_bytes_are_images_or_refused(
    tmp_path: Path, whole: bytes, cut: int, position: int, patch: bytes, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((whole[:position] + patch + whole[position + len(patch) :])[:cut])
    try:
        source = open_calibration(path)
    except DataError:
        return
    assert len(source) > 0
    source.key(0)


def test_float_arrays_are_inputs_for_calibration_only(tmp_path: Path) -> None:
    array = normal(4, 3, 5, 6)
    for path in (npy(tmp_path, array), npz(tmp_path, input=array)):
        source = open_calibration(path)
        assert isinstance(source, ArrayInputs)
        assert (len(source), source.shape) == (4, (3, 5, 6))
        assert np.array_equal(source.inputs([2, 0]), array[[2, 0]])
        for opener in (open_images, open_array_images):
            with pytest.raises(DataError, match=r"preprocessed is unknown.*golden") as caught:
                opener(path)
            assert "uint8" in (caught.value.hint or "")


def test_calibration_takes_images_too(tmp_path: Path, shipped_images: Path) -> None:
    assert isinstance(open_calibration(npy(tmp_path, pixels(3, 5, 6))), ArrayImages)
    assert len(open_calibration(shipped_images / "calibration")) == 1024


def test_network_inputs_are_told_from_images(tmp_path: Path) -> None:
    assert isinstance(ArrayInputs(tmp_path, normal(1, 3, 5, 6)), NetworkInputs)
    assert isinstance(RandomInputs((3, 5, 6), 2), NetworkInputs)
    assert not isinstance(ArrayImages(tmp_path, pixels(3, 5, 6)), NetworkInputs)
    assert not isinstance(ArrayImages(tmp_path, pixels(3, 5, 6), None), NetworkInputs)


@given(seed=st.integers(0, 99), wanted=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_random_inputs_depend_on_the_seed_and_the_position_only(
    seed: int, wanted: list[int]
) -> None:
    source = RandomInputs((3, 2, 2), 10, seed)
    batch = source.inputs(wanted)
    assert batch.dtype == np.float32
    for row, i in zip(batch, wanted, strict=True):
        assert np.array_equal(row, source.inputs([i])[0])
        assert not np.array_equal(row, RandomInputs((3, 2, 2), 10, seed + 1).inputs([i])[0])
    keys = [source.key(i) for i in range(10)]
    assert len({*keys, RandomInputs((3, 2, 2), 10, seed + 1).key(0)}) == 11


def test_random_inputs_are_standard_normal() -> None:
    values = RandomInputs((3, 64, 64), 4).inputs(range(4))
    assert (values.mean(), values.std()) == pytest.approx((0.0, 1.0), abs=0.02)


@given(data=st.data(), count=st.integers(1, 20), size=st.integers(1, 7))
def test_feeds_of_inputs_and_of_images_go_through_the_same_positions(
    data: st.DataObject, count: int, size: int
) -> None:
    wanted = data.draw(st.lists(st.integers(0, count - 1), max_size=count, unique=True))
    start = data.draw(st.integers(0, len(wanted)))
    array = pixels(count, 5, 6)
    ready = GRAY.to_input(array[..., None])
    for source in (ArrayImages(Path(), array), ArrayInputs(Path(), ready)):
        feeds = Feeds(source, GRAY, size, wanted, start)
        seen = list(feeds)
        assert len(feeds) == len(wanted) - start
        assert [i for _, rows in seen for i in rows] == wanted[start:]
        assert all(len(rows) == size for _, rows in seen[:-1])
        for batch, rows in seen:
            assert np.array_equal(batch, ready[list(rows)])
