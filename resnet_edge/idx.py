"""The IDX format of MNIST: arrays of unsigned bytes, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

from resnet_edge.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

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
    import numpy as np

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
    from resnet_edge.files import write_bytes

    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    write_bytes(path, gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def _read_at_most(stream: BinaryIO, size: int) -> bytes:
    """Read up to ``size`` bytes, holding only what the file really has."""
    chunks = []
    while size > 0 and (chunk := stream.read(min(size, 1 << 20))):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)
