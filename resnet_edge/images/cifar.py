"""CIFAR-10's binary version: a label byte, then 32 x 32 red, green and blue bytes, and so on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_edge.errors import DataError
from resnet_edge.images.arrays import ArrayImages

__all__ = ["find_cifar10", "open_cifar10"]

_SIDE, _CLASSES = 32, 10
_RECORD = 1 + 3 * _SIDE * _SIDE
_MAX_BYTES = 1 << 30  # the real files have 31 MB
_PARTS = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
_NAMES, _MAX_NAMES = "batches.meta.txt", 4096  # bytes of it that are read


def find_cifar10(path: Path, split: str) -> list[Path]:
    """Return the files of one part (``train`` or ``test``), in order; empty if there are none."""
    return sorted(path.glob(_PARTS[split]))


def open_cifar10(path: Path, files: list[Path]) -> ArrayImages:
    """Read images and labels, held in memory as uint8 N x 32 x 32 x 3.

    Args:
        path: The directory; its ``batches.meta.txt`` names the classes.
        files: What `find_cifar10` found there.

    Raises:
        DataError: A file is not what it should be.
    """
    records = np.concatenate([_read(file) for file in files])
    pixels = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    labels = records[:, 0].astype(np.int64)
    return ArrayImages(path, np.ascontiguousarray(pixels), labels, _class_names(path / _NAMES))


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        size = path.stat().st_size if path.is_file() else 0
        if size == 0 or size % _RECORD or size > _MAX_BYTES:
            raise DataError(
                f"{path} is not a CIFAR-10 file: {size} bytes are not a number of {_RECORD}-byte "
                "records",
                hint="download cifar-10-binary.tar.gz again and unpack it",
            )
        records = np.fromfile(path, np.uint8, size).reshape(-1, _RECORD)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if (top := int(records[:, 0].max())) >= _CLASSES:
        raise DataError(
            f"{path} is not a CIFAR-10 file: it has label {top}",
            hint="CIFAR-100's files have another layout and are not supported",
        )
    return records


def _class_names(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_NAMES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != _CLASSES:
        raise DataError(
            f"{path} names {len(names)} classes instead of {_CLASSES}",
            hint="one name a line; remove the file to go without names",
        )
    return names
