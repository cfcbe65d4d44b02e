from __future__ import annotations

import gzip
import hashlib
import struct
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from resnet_edge.errors import DataError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.folder import FolderImages
from resnet_edge.images.idx import read_idx, write_idx
from resnet_edge.images.labels import resolve_labels
from resnet_edge.images.opening import open_images
from resnet_edge.images.spec import FASHION_MNIST, ImageSpec

SPEC = ImageSpec(resize=None, crop=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
GRAY = ImageSpec(resize=None, crop=(4, 4), mean=(0.0,), std=(1.0,), color="gray")


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value, value)).save(path)
    return path


def numbered(count: int) -> ArrayImages:
    """Return images whose pixels all equal their position."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    return ArrayImages(Path(), pixels, labels=None)


def idx_header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def write_pair(folder: Path, prefix: str, count: int, labels: int | None = None) -> None:
    write_idx(folder / f"{prefix}images-idx3-ubyte.gz", numbered(count).pixels)
    write_idx(folder / f"{prefix}labels-idx1-ubyte.gz", np.zeros(labels or count, dtype=np.uint8))


def labels_file(folder: Path, text: str) -> Path:
    path = folder.with_suffix(".csv")
    path.write_text(text, encoding="utf-8")
    return path


@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=3), seed=st.integers(0, 2**32 - 1))
def test_idx_round_trips_gzipped_and_plain(tmp_path: Path, shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    packed, again, plain = (tmp_path / name for name in ("a.gz", "b.gz", "a"))
    write_idx(packed, array)
    write_idx(again, array)
    assert again.read_bytes() == packed.read_bytes(), "something in the file is not the images"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    for path in (packed, plain):
        assert np.array_equal(read_idx(path, dimensions=len(shape)), array)


GOOD = idx_header(2, 3, 4) + bytes(24)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated", GOOD[:-1]),
        ("too long", GOOD + b"x"),
        ("only a header", idx_header(2, 3, 4)),
        ("half a header", GOOD[:9]),
        ("empty", b""),
        ("wrong magic", b"\x01" + GOOD[1:]),
        ("float elements", bytes([0, 0, 0x0D, 3]) + GOOD[4:]),
        ("labels for images", idx_header(24) + bytes(24)),
        ("an overflowing shape", idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1)),
        ("an overflowing shape with a zero", idx_header(2**32 - 1, 0, 2**32 - 1)),
        ("not gzip.gz", GOOD),
        ("truncated gzip.gz", gzip.compress(GOOD)[:-9]),
        ("damaged gzip.gz", gzip.compress(GOOD)[:12] + b"\xff" * 20),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_idx(tmp_path / name, dimensions=3)


@given(content=st.binary(max_size=40) | st.binary(max_size=30).map(lambda b: idx_header(2) + b))
def test_any_bytes_are_idx_or_refused(tmp_path: Path, content: bytes) -> None:
    for path, data in ((tmp_path / "a", content), (tmp_path / "a.gz", gzip.compress(content))):
        path.write_bytes(data)
        try:
            array = read_idx(path, dimensions=1)
        except DataError:
            continue
        assert idx_header(*array.shape) + array.tobytes() == content


@pytest.mark.parametrize(
    ("shape", "message"), [((2**22, 28, 28), "promises"), ((2**32 - 1, 2**16, 2**16), "claims")]
)
def test_an_idx_header_that_lies_costs_no_memory(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_header(*shape) + bytes(1000)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            read_idx(tmp_path / "a.gz", dimensions=3)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_shipped_sets_are_whole_distinct_and_disjoint(shipped_images: Path) -> None:
    calibration, test = (open_images(shipped_images / part) for part in ("calibration", "test"))
    assert (len(calibration), len(test)) == (1024, 10_000)
    keys = [{s.key(i) for i in range(len(s))} for s in (calibration, test)]
    assert len(keys[0]) == 1024
    assert not keys[0] & keys[1]
    for source in (calibration, test):
        assert np.unique(source.labels).tolist() == list(range(10))
        assert len(source.class_names or ()) == 10
    (batch,) = ImageBatches(calibration, FASHION_MNIST, 16, range(16))
    assert batch.pixels.shape == (16, 28, 28, 1)


def test_a_directory_of_several_sets_names_them(shipped_images: Path) -> None:
    with pytest.raises(DataError, match="calibration, test") as caught:
        open_images(shipped_images)
    assert str(shipped_images / "calibration") in (caught.value.hint or "")


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("test", 2)])
def test_the_four_mnist_files_open_by_split(tmp_path: Path, split: Any, count: int) -> None:
    write_pair(tmp_path, "train-", 3)
    write_pair(tmp_path, "t10k-", 2)
    source = open_images(tmp_path, split=split)
    assert (len(source), source.labels is not None) == (count, True)


@pytest.mark.parametrize(("images", "labels"), [(3, 2), (0, 0)])
def test_an_idx_pair_that_does_not_match_or_is_empty_is_refused(
    tmp_path: Path, images: int, labels: int
) -> None:
    write_pair(tmp_path, "", images, labels)
    with pytest.raises(DataError, match=r"labels for|no image"):
        open_images(tmp_path)


@pytest.mark.parametrize("place", [".", ".."])
def test_class_names_are_read_beside_the_idx_files_or_one_folder_up(
    tmp_path: Path, place: str
) -> None:
    write_pair(tmp_path / "set", "", 3)
    (tmp_path / "set" / place / "classes.txt").write_text("größer\nkleiner\n", encoding="utf-8")
    assert open_images(tmp_path / "set").class_names == ("größer", "kleiner")


@pytest.mark.parametrize("content", [b"one\ntwo\n", b"\xff\xfe\n\n\n"], ids=["short", "no UTF-8"])
def test_class_names_that_do_not_fit_the_labels_are_refused(tmp_path: Path, content: bytes) -> None:
    write_idx(tmp_path / "images-idx3-ubyte.gz", numbered(3).pixels)
    write_idx(tmp_path / "labels-idx1-ubyte.gz", np.arange(3, dtype=np.uint8))
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError):
        resolve_labels(open_images(tmp_path), class_names=("one", "two"), num_classes=2)


def test_class_folders_give_labels_in_sorted_order(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "b.PNG")
    picture(tmp_path / "dog" / "deep" / "a.jpg")
    picture(tmp_path / "cat" / "z.png")
    picture(tmp_path / ".hidden" / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dog" / "notes.txt").touch()
    source = open_images(tmp_path)
    assert isinstance(source, FolderImages)
    assert source.class_names == ("cat", "dog")
    assert [f.name for f in source.files] == ["z.png", "b.PNG", "a.jpg"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 1]


def test_a_flat_folder_has_no_labels_and_sorted_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.bmp", "c.webp"):
        picture(tmp_path / name)
    source = open_images(tmp_path)
    assert [source.name(i).rpartition("/")[2] for i in range(3)] == ["a.bmp", "b.png", "c.webp"]
    assert source.labels is source.class_names is None


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "Test"), ("train", "validation")])
@pytest.mark.parametrize("layout", ["classes", "idx"])
def test_train_and_test_subfolders_are_split(
    tmp_path: Path, names: tuple[str, str], layout: str
) -> None:
    for name, count in zip(names, (2, 1), strict=True):
        if layout == "idx":
            write_pair(tmp_path / name, "", count)
        for i in range(count if layout == "classes" else 0):
            picture(tmp_path / name / "cat" / f"{i}.png")
    assert len(open_images(tmp_path, split="train")) == 2
    assert len(open_images(tmp_path, split="test")) == 1


@pytest.mark.parametrize("case", ["missing", "file", "empty"])
def test_a_path_without_images_is_refused_with_a_way_out(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=case) as caught:
        open_images(tmp_path / case)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        ("a.png,7\nsub/b.png, 0\n", [7, 0], None),
        ("a.png,dog\n\nsub/b.png,cat\n", [1, 0], ("cat", "dog")),
        ("\ufeffa.png,1\r\nsub/b.png,2\r\n", [1, 2], None),
    ],
    ids=["indices", "names", "as Excel saves it"],
)
def test_a_labels_file_labels_a_flat_folder_in_its_own_order(
    tmp_path: Path, text: str, labels: list[int], names: tuple[str, ...] | None
) -> None:
    folder = tmp_path / "images"
    picture(folder / "sub" / "b.png")
    picture(folder / "a.png")
    source = open_images(folder, labels=labels_file(folder, text))
    assert source.labels is not None
    assert source.labels.tolist() == labels
    assert source.class_names == names
    assert [source.name(i) for i in range(2)] == [
        str(folder / "a.png"), str(folder / "sub" / "b.png")
    ]  # fmt: skip


@given(text=st.text(alphabet='a.png,0²-"\n\r\0x', max_size=20))
@example(text="")
@example(text="b.png,1")
@example(text="a.png,1,2")
@example(text="a.png")
@example(text="a.png,²")
@example(text="a.png,99999999999999999999")
def test_any_labels_file_is_usable_or_refused(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "images"
    picture(folder / "a.png")
    try:
        source = open_images(folder, labels=labels_file(folder, text))
    except DataError:
        return
    assert source.labels is not None
    assert len(source.labels) == len(source) > 0


def labelled(labels: list[int], names: tuple[str, ...] | None) -> FolderImages:
    return FolderImages(Path(), (Path(),) * len(labels), np.array(labels), names)


@pytest.mark.parametrize(
    ("names", "model", "classes", "expected"),
    [
        (("cat", "dog"), ("bird", "dog", "cat"), 3, [2, 1, 1]),
        (("cat", "dog"), None, 2, [0, 1, 1]),
        (("n01", "n02"), ("cat", "dog"), 2, [0, 1, 1]),
        (None, None, 2, [0, 1, 1]),
        (None, ("cat", "dog"), 2, [0, 1, 1]),
    ],
    ids=["by name", "by order", "other names, same count", "indices", "indices with names"],
)
def test_labels_map_by_name_else_by_order(
    names: Any, model: Any, classes: int, expected: list[int]
) -> None:
    source = labelled([0, 1, 1], names)
    labels = resolve_labels(source, class_names=model, num_classes=classes)
    assert labels is not None
    assert labels.tolist() == expected


@pytest.mark.parametrize(
    ("names", "model", "classes"),
    [
        (("cat", "dog"), None, 3),
        (("cat", "dog"), ("cat", "bird"), 2),
        (("n01", "n02"), ("cat", "dog", "bird"), 3),
        (None, None, 1),
    ],
    ids=["other count", "one name unknown", "names unknown, other count", "index too large"],
)
def test_labels_that_cannot_be_the_models_are_refused(names: Any, model: Any, classes: int) -> None:
    with pytest.raises(DataError) as caught:
        resolve_labels(labelled([0, 1, 1], names), class_names=model, num_classes=classes)
    assert caught.value.hint


def test_images_without_labels_resolve_to_none() -> None:
    assert resolve_labels(numbered(2), class_names=("a",), num_classes=1) is None


@given(data=st.data(), count=st.integers(0, 30), size=st.integers(1, 12))
def test_batches_keep_order_size_and_indices(data: st.DataObject, count: int, size: int) -> None:
    wanted = data.draw(st.none() | st.lists(st.integers(0, max(0, count - 1)), max_size=count))
    batches = ImageBatches(numbered(count), GRAY, size, wanted)
    seen = list(batches)
    expected = list(range(count)) if wanted is None else wanted
    assert len(batches) == len(expected)
    assert [i for batch in seen for i in batch.indices] == expected
    assert [int(p) for batch in seen for p in batch.pixels[:, 0, 0, 0]] == expected
    assert all(len(batch.indices) == size for batch in seen[:-1])
    assert all(batch.pixels.shape == (len(batch.indices), 4, 4, 1) for batch in seen)


@given(data=st.data(), count=st.integers(1, 30), size=st.integers(1, 12))
def test_batches_can_start_after_what_an_earlier_pass_has_done(
    data: st.DataObject, count: int, size: int
) -> None:
    start = data.draw(st.integers(0, count))
    batches = ImageBatches(numbered(count), GRAY, size, start=start)
    assert [i for batch in batches for i in batch.indices] == list(range(start, count))


def test_images_skipped_before_count_among_those_of_all(tmp_path: Path) -> None:
    broken_folder(tmp_path, 36, 4)
    source = open_images(tmp_path)
    one_before = ImageBatches(source, SPEC, 4, range(40), 10, ("earlier",))
    for _ in range(2):
        with pytest.raises(DataError, match="5 of 40 images cannot be decoded, the first is earl"):
            list(one_before)
    batches = ImageBatches(source, SPEC, 4, range(40), 36, ())
    assert list(batches) == []
    assert len(batches.skipped) == 4


class SlowStart(ArrayImages):
    """A source whose first image waits until one of a later batch has been decoded."""

    later = threading.Event()

    def load(self, index: int) -> Image.Image:
        if index == 0:
            self.later.wait(0.5)
        elif index >= 4:
            self.later.set()
        return super().load(index)


def test_reading_ahead_does_not_change_the_order() -> None:
    source = SlowStart(Path(), numbered(12).pixels, None)
    indices = [i for batch in ImageBatches(source, GRAY, 2) for i in batch.indices]
    assert indices == list(range(12))


def test_leaving_the_iteration_early_ends_its_threads() -> None:
    before = threading.active_count()
    for _ in ImageBatches(numbered(30), GRAY, 1):
        break
    assert threading.active_count() == before


def test_keys_are_hashes_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    files = [picture(tmp_path / name, v) for name, v in (("a.png", 1), ("b.png", 1), ("c.png", 2))]
    source = open_images(tmp_path)
    keys = [source.key(i) for i in range(3)]
    assert keys == [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    assert keys[0] == keys[1] != keys[2]
    pixels = numbered(3)
    assert [pixels.key(i) for i in range(3)] == [
        hashlib.sha256(bytes([i] * 16)).hexdigest() for i in range(3)
    ]


def broken_folder(folder: Path, good: int, broken: int) -> None:
    for i in range(good):
        picture(folder / f"a{i}.jpg", i)
    whole = picture(folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    damage = (whole[: len(whole) // 2], b"", b"<html>", whole[:2] + b"\0" * 600)
    for i in range(broken):
        (folder / f"b{i}.jpg").write_bytes(damage[i % len(damage)])


def test_up_to_a_tenth_of_broken_images_is_skipped_and_counted(tmp_path: Path) -> None:
    broken_folder(tmp_path, 36, 4)
    batches = ImageBatches(open_images(tmp_path), SPEC, 8)
    for _ in range(2):
        assert [i for batch in batches for i in batch.indices] == list(range(36))
        assert batches.skipped == [str(tmp_path / f"b{i}.jpg") for i in range(4)]


def test_more_than_a_tenth_of_broken_images_is_refused(tmp_path: Path) -> None:
    broken_folder(tmp_path, 35, 4)
    with pytest.raises(DataError, match=r"4 of 39 images cannot be decoded.*b0\.jpg") as caught:
        list(ImageBatches(open_images(tmp_path), SPEC, 8))
    assert caught.value.hint


def test_an_image_whose_header_claims_a_gigantic_picture_is_skipped(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / f"a{i}.png", i)
    bomb = bytearray((tmp_path / "a9.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    (tmp_path / "bomb.png").write_bytes(bomb)
    batches = ImageBatches(open_images(tmp_path), SPEC)
    assert sum(len(batch.indices) for batch in batches) == 10
    assert batches.skipped == [str(tmp_path / "bomb.png")]
