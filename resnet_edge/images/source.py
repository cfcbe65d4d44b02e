"""What images and network inputs look like to every stage, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ImageSource", "NetworkInputs", "Split"]

Split = Literal["train", "test"]
SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "t10k", "val", "validation")}


class ImageSource(Protocol):
    """A finite, ordered set of images.

    Attributes:
        path: Where it lives.
        labels: Class index of every image, or None; refers to ``class_names`` when there are any.
        class_names: Names of the classes in index order, or None.
    """

    path: Path
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """Decode one image; raises any exception Pillow has for a broken file."""

    def key(self, index: int) -> str:
        """Return the SHA-256 of the image's content."""

    def name(self, index: int) -> str:
        """Return what to call this image in messages."""


@runtime_checkable
class NetworkInputs(Protocol):
    """A finite, ordered set of what a network is fed, preprocessing done."""

    @property
    def path(self) -> Path:
        """Where they come from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""

    def __len__(self) -> int: ...

    def inputs(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Return these inputs as one batch."""

    def key(self, index: int) -> str:
        """Return the SHA-256 of the input's content."""
