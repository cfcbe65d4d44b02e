"""The IDX format of MNIST: arrays of unsigned bytes, gzipped or not, and image sets in it."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from resnet_edge.errors import DataError
from resnet_edge.files import write_bytes
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.labels import read_class_names
from resnet_edge.images.source import SPLIT_NAMES, Split

__all__ = ["read_idx", "write_idx"]

_IDX_MAX_BYTES = 8 << 30
_IDX_MAX_EXTENT = 1 << 28


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: The file.
        dimensions: Required number of dimensions: 3 for images, 1 for labels.

    Raises:
        DataError: The file is not IDX, is truncated, or claims more than it holds.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with cast("BinaryIO", opener(path, "rb")) as stream:
            header = stream.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < 4 + 4 * dimensions:
                raise DataError(f"{path} is not an IDX file of {dimensions} dimensions")
            shape = [int(n) for n in np.frombuffer(header, ">u4", dimensions, offset=4)]
            size = 1
            for extent in shape:
                size *= extent
            if size > _IDX_MAX_BYTES or max(shape) > _IDX_MAX_EXTENT:
                raise DataError(f"{path} claims {' x '.join(map(str, shape))} bytes")
            body = _read_at_most(stream, size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}", hint="download the file again") from error
    if len(body) != size:
        raise DataError(
            f"{path} is damaged: its header promises {size} bytes, it holds "
            f"{'more' if len(body) > size else len(body)}",
            hint="download the file again",
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write an IDX file, gzipped, atomically and reproducibly (no time stamp inside)."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    write_bytes(path, gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def _read_at_most(stream: BinaryIO, size: int) -> bytes:
    """Read up to ``size`` bytes, holding only what the file really has."""
    chunks = []
    while size > 0 and (chunk := stream.read(min(size, 1 << 20))):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def idx_files(path: Path) -> list[Path]:
    return sorted(
        p for p in path.iterdir() if "images-idx3-ubyte" in p.name.replace(".idx3", "-idx3")
    )


def find_idx(path: Path, split: Split) -> tuple[Path, Path | None] | None:
    images = idx_files(path)
    if not images:
        return None
    if len(images) > 1:
        images = [p for p in images if p.name.lower().startswith(SPLIT_NAMES[split])]
        if not images:
            raise DataError(f"{path} holds several IDX image files and none is named as {split}")
    name = images[0].name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    labels = [p for p in (path / f"{name}.gz", path / name) if p.exists()]
    return images[0], labels[0] if labels else None


def open_idx(path: Path, images: Path, labels: Path | None) -> ArrayImages:
    pixels = read_idx(images, dimensions=3)
    if not len(pixels):
        raise DataError(f"{images} holds no image")
    values = None
    if labels is not None:
        values = read_idx(labels, dimensions=1).astype(np.int64)
        if len(values) != len(pixels):
            raise DataError(
                f"{labels} has {len(values)} labels for {len(pixels)} images",
                hint="the two files belong to different sets",
            )
    return ArrayImages(path, pixels, values, None if values is None else _class_names(path))


def _class_names(path: Path) -> tuple[str, ...] | None:
    """Read ``classes.txt``, one name a line, beside the IDX files or one folder up."""
    for folder in (path, path.resolve().parent):
        if (folder / "classes.txt").is_file():
            return read_class_names(folder / "classes.txt")
    return None
