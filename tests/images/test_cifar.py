from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.errors import DataError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.images.source import ImageSource

RECORD = 3073
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def records(count: int, *, seed: int = 0) -> np.ndarray:
    """Return random records with valid labels."""
    made = np.random.default_rng(seed).integers(0, 256, (count, RECORD), dtype=np.uint8)
    made[:, 0] %= 10
    return made


def cifar(folder: Path, *, train: int = 3, test: int = 2) -> Path:
    """Write a small CIFAR-10 directory: two training files and a test file."""
    (folder / "data_batch_1.bin").write_bytes(records(train, seed=1).tobytes())
    (folder / "data_batch_2.bin").write_bytes(records(train, seed=2).tobytes())
    (folder / "test_batch.bin").write_bytes(records(test, seed=3).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


def as_array(source: ImageSource) -> np.ndarray:
    return np.stack([np.asarray(source.load(i)) for i in range(len(source))])


def test_the_training_part_is_all_its_files_in_order(tmp_path: Path) -> None:
    source = open_images(cifar(tmp_path), split="train")
    written = np.concatenate([records(3, seed=1), records(3, seed=2)])
    assert source.labels is not None
    assert source.labels.tolist() == written[:, 0].tolist()
    assert source.class_names == tuple(NAMES)
    assert len(source) == 6


def test_the_test_part_is_the_test_file(tmp_path: Path) -> None:
    source = open_images(cifar(tmp_path), split="test")
    assert source.labels is not None
    assert source.labels.tolist() == records(2, seed=3)[:, 0].tolist()


def test_planes_become_rgb_pixels(tmp_path: Path) -> None:
    """Red comes first, every plane row by row."""
    record = np.zeros(RECORD, np.uint8)
    red, green, blue = (record[1 + 1024 * i :][:1024].reshape(32, 32) for i in range(3))
    red[0, 31], green[31, 0], blue[5, 7] = 10, 20, 30
    (tmp_path / "test_batch.bin").write_bytes(record.tobytes())
    image = as_array(open_images(tmp_path))[0]
    assert image.shape == (32, 32, 3)
    assert (image[0, 31].tolist(), image[31, 0].tolist()) == ([10, 0, 0], [0, 20, 0])
    assert image[5, 7].tolist() == [0, 0, 30]
    assert np.count_nonzero(image) == 3


def test_without_a_file_of_names_there_are_none(tmp_path: Path) -> None:
    (cifar(tmp_path) / "batches.meta.txt").unlink()
    assert open_images(tmp_path).class_names is None


@pytest.mark.parametrize("names", [b"one\ntwo\n", b"\xff\xfe\x00", b"x\n" * 100_000])
def test_a_wrong_file_of_names_is_refused(tmp_path: Path, names: bytes) -> None:
    (cifar(tmp_path) / "batches.meta.txt").write_bytes(names)
    with pytest.raises(DataError, match=r"batches\.meta\.txt"):
        open_images(tmp_path)


WRONG = {
    "empty": b"",
    "truncated": records(2).tobytes()[:-1],
    "too long": records(2).tobytes() + b"\0",
    "label 10": b"\x0a" + bytes(RECORD - 1),
    "CIFAR-100": bytes([19, 99]) + bytes(3072),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_is_not_cifar_10_is_refused(tmp_path: Path, wrong: str) -> None:
    (cifar(tmp_path) / "data_batch_2.bin").write_bytes(WRONG[wrong])
    with pytest.raises(DataError, match=r"data_batch_2\.bin"):
        open_images(tmp_path, split="train")


@given(content=st.binary(max_size=20) | st.binary(max_size=4).map(lambda b: b.ljust(RECORD, b"7")))
def test_any_bytes_are_cifar_10_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch.bin").write_bytes(content)
    try:
        source = open_images(tmp_path)
    except DataError:
        return
    assert isinstance(source, ArrayImages)
    planes = source.pixels.transpose(0, 3, 1, 2).reshape(len(source), -1)
    assert source.labels is not None
    assert np.column_stack([source.labels, planes]).astype(np.uint8).tobytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "test_batch.bin")
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        open_images(tmp_path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "test_batch.bin").open("wb") as stream:
        stream.truncate(RECORD * 4_000_000)  # 12 GB of nothing: a sparse file
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        open_images(tmp_path)
