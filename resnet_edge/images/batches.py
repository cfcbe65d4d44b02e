"""Batches of decoded images, read ahead in threads, and of what a network is fed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.errors import DataError
from resnet_edge.images.source import ImageSource, NetworkInputs
from resnet_edge.images.spec import ImageSpec

__all__ = ["Batch", "Feeds", "ImageBatches", "portions"]

_MAX_CORRUPT = 0.10


def portions(
    rows: NDArray[Any], fewest: int, most: int | None
) -> Iterator[tuple[NDArray[Any], int]]:
    """Cut rows into what a network takes at once, and say how many of them are meant.

    Args:
        rows: At least one.
        fewest: Rows that it takes, the last portion being filled up from its own first ones.
        most: Rows that it takes; None if there is no limit.
    """
    for start in range(0, len(rows), most or len(rows)):
        part = rows[start : start + most] if most else rows
        filled = part if len(part) >= fewest else part[np.arange(fewest) % len(part)]
        yield filled, len(part)


@dataclass(frozen=True)
class Batch:
    """Decoded images.

    Attributes:
        pixels: uint8 N x H x W x C.
        indices: Position of each image in its source.
    """

    pixels: NDArray[np.uint8]
    indices: tuple[int, ...]


@dataclass
class ImageBatches:
    """Iterate over a source in batches, decoding ahead in threads.

    A file that cannot be decoded is skipped and counted in ``skipped``; when more than a tenth
    of the images cannot be decoded, the iteration ends with a `DataError`. Of a few images out of
    many, as many may be broken as chance can put there where a tenth of all is.

    Attributes:
        source: Where the images come from.
        spec: Geometry and colour the network expects.
        batch_size: Images per batch; the last one may be smaller.
        indices: Which images, in this order; default all.
        start: How many of them an earlier, interrupted pass has done.
        skipped_before: Which of those it could not decode.
        skipped: Names of the images that could not be decoded, filled while iterating.
    """

    source: ImageSource
    spec: ImageSpec
    batch_size: int = 64
    indices: Sequence[int] | None = None
    start: int = 0
    skipped_before: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.source) if self.indices is None else len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        wanted = range(len(self.source)) if self.indices is None else self.indices
        self.skipped[:] = self.skipped_before
        # Pillow releases the GIL while decoding and resizing, so threads are enough.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            chunks = [
                wanted[i : i + self.batch_size]
                for i in range(self.start, len(wanted), self.batch_size)
            ]
            ahead = [pool.submit(self._decode, chunk) for chunk in chunks[:3]]
            for position in range(len(chunks)):
                decoded = ahead.pop(0).result()
                if position + 3 < len(chunks):
                    ahead.append(pool.submit(self._decode, chunks[position + 3]))
                good = [(i, image) for i, image in decoded if image is not None]
                self.skipped += [self.source.name(i) for i, image in decoded if image is None]
                self._refuse_if_too_many_are_broken(len(wanted))
                if good:
                    yield Batch(np.stack([image for _, image in good]), tuple(i for i, _ in good))

    def _decode(self, chunk: Sequence[int]) -> list[tuple[int, NDArray[np.uint8] | None]]:
        return [(i, self._decode_one(i)) for i in chunk]

    def _decode_one(self, index: int) -> NDArray[np.uint8] | None:
        try:
            return self.spec.pixels(self.source.load(index))
        except Exception:  # Pillow's plugins raise anything on a broken file
            return None

    def _refuse_if_too_many_are_broken(self, total: int) -> None:
        # Of a sample, three standard deviations more: it may hold more than its share by chance.
        left_out = max(len(self.source) - total, 0) / max(len(self.source) - 1, 1)
        variance = total * _MAX_CORRUPT * (1 - _MAX_CORRUPT) * left_out
        allowed = _MAX_CORRUPT * total + 3 * math.sqrt(variance)
        if len(self.skipped) > allowed or len(self.skipped) == total:
            raise DataError(
                f"{self.source.path}: {len(self.skipped)} of {total} images cannot be decoded, "
                f"the first is {self.skipped[0]}",
                hint="repair or remove the broken files; up to a tenth is skipped and counted",
            )


@dataclass
class Feeds:
    """Iterate over what a network is fed, with the position of every row in the source.

    Images go through the spec; a source of network inputs gives them as they are.

    Attributes:
        source: Images or network inputs.
        spec: Preprocessing of the images.
        batch_size: Rows per batch; the last one may be smaller.
        indices: Which rows, in this order.
        start: How many of them an earlier, interrupted pass has done.
        skipped_before: Names of the images it could not decode.
        skipped: Names of all images that could not be decoded, filled while iterating.
    """

    source: ImageSource | NetworkInputs
    spec: ImageSpec
    batch_size: int
    indices: Sequence[int]
    start: int = 0
    skipped_before: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices) - self.start

    def __iter__(self) -> Iterator[tuple[NDArray[Any], tuple[int, ...]]]:
        if isinstance(self.source, NetworkInputs):
            for i in range(self.start, len(self.indices), self.batch_size):
                rows = tuple(self.indices[i : i + self.batch_size])
                yield self.source.inputs(rows), rows
            return
        for batch in ImageBatches(
            self.source, self.spec, self.batch_size, self.indices,
            self.start, self.skipped_before, self.skipped,
        ):  # fmt: skip
            yield self.spec.to_input(batch.pixels), batch.indices
