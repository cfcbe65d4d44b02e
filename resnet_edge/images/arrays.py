"""Images and network inputs that come as NumPy arrays instead of as image files.

uint8 arrays are images like any other. float32 N x C x H x W arrays are network inputs that
somebody has preprocessed, as ModelOpt and ONNX Runtime take them; only calibration can use those,
since an accuracy needs the preprocessing that the golden reference was made with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_edge.errors import DataError

__all__ = ["ArrayImages", "ArrayInputs", "RandomInputs", "open_array_images"]

_SUFFIXES = (".npy", ".npz")
_NPY_MAGIC = b"\x93NUMPY"
_IMAGE_KEYS, _LABEL_KEYS = ("images", "x"), ("labels", "y")
_EXPECTED = (
    "expected uint8 images N x H x W or N x H x W x C with C of 1, 3 or 4, or, for calibrate, "
    "float32 network inputs N x C x H x W"
)


@dataclass
class ArrayImages:
    """Images of an array file: uint8 N x H x W or N x H x W x C in the order gray, RGB, RGBA."""

    path: Path
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image in mode ``L``, ``RGB`` or ``RGBA``."""
        pixels = self.pixels[index]
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)

    def key(self, index: int) -> str:
        """Return the SHA-256 of the pixels."""
        return hashlib.sha256(self.pixels[index].tobytes()).hexdigest()

    def name(self, index: int) -> str:
        """Return file and position."""
        return f"{self.path} #{index}"


@dataclass
class ArrayInputs:
    """Network inputs of an array file: float32 N x C x H x W."""

    path: Path
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return tuple(self.values.shape[1:])

    def inputs(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Return these inputs as one batch."""
        return np.ascontiguousarray(self.values[list(indices)])

    def key(self, index: int) -> str:
        """Return the SHA-256 of the values."""
        return hashlib.sha256(self.values[index].tobytes()).hexdigest()


@dataclass(frozen=True)
class RandomInputs:
    """Standard normal noise in place of network inputs; ranges from it fit no real image.

    Attributes:
        shape: Shape of one input, without the batch.
        count: How many.
        seed: The same seed gives the same inputs.
    """

    shape: tuple[int, ...]
    count: int
    seed: int = 0
    path: Path = Path("random inputs")

    def __len__(self) -> int:
        return self.count

    def inputs(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Return these inputs as one batch; each depends on the seed and its position only."""
        generators = [np.random.default_rng((self.seed, i)) for i in indices]
        return np.stack([g.standard_normal(self.shape, dtype=np.float32) for g in generators])

    def key(self, index: int) -> str:
        """Return a SHA-256 that stands for the values."""
        return hashlib.sha256(f"{self.seed} {index} {self.shape}".encode()).hexdigest()


def open_array_images(path: Path, labels: Path | None = None) -> ArrayImages:
    """Open the images of a ``.npy`` or ``.npz`` file.

    Args:
        path: The file. An archive holds them as ``images``, ``x`` or its only such array, and
            may hold their class indices as ``labels`` or ``y``.
        labels: A labels file, which only a flat folder can have.

    Raises:
        DataError: It is no such file, or holds something else than images.
    """
    source = open_arrays(path)
    if isinstance(source, ArrayInputs):
        raise DataError(
            f"{path} holds float32 network inputs, not images: how they were preprocessed is "
            "unknown, so their results cannot be compared with the golden reference",
            hint="pass the images as uint8 N x H x W x C; only calibrate takes network inputs",
        )
    if labels is not None:
        raise DataError(
            f"the labels file {labels} belongs to a flat folder, not to {path}",
            hint="put the class indices into an .npz file, as the array 'labels'",
        )
    return source


def open_arrays(path: Path) -> ArrayImages | ArrayInputs:
    array, labels = _read(path)
    images = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3, 4))
    if not array.size:
        raise DataError(f"{path} holds no image: its array is {_shape(array)}")
    if array.dtype == np.uint8 and images:
        return ArrayImages(path, array, None if labels is None else _labels(path, labels, array))
    if array.dtype == np.float32 and array.ndim == 4:
        return ArrayInputs(path, array)
    raise DataError(f"{path} holds {array.dtype} {_shape(array)}", hint=_EXPECTED)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the images, left on disk where the file allows, and the labels."""
    if path.suffix.lower() not in _SUFFIXES:
        raise DataError(
            f"{path} is a file, not a directory",
            hint="pass the directory that holds the images, or a .npy or .npz file",
        )
    try:
        with path.open("rb") as stream:
            if stream.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
                return np.load(path, mmap_mode="r", allow_pickle=False), None
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                return _pick(path, archive)
    except DataError:
        raise
    except Exception as error:  # a damaged file raises anything, down to tokenize.TokenError
        raise DataError(
            f"cannot read {path}: {error}",
            hint="write it with numpy.save or numpy.savez; arrays of objects are refused",
        ) from error


def _pick(path: Path, archive: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    label_key = next((k for k in _LABEL_KEYS if k in archive), None)
    key = next((k for k in _IMAGE_KEYS if k in archive), None)
    if key is None:
        others = {k: np.ndim(archive[k]) for k in archive if k != label_key}
        candidates = [k for k, dimensions in others.items() if dimensions > 2] or list(others)
        if len(candidates) != 1:
            raise DataError(
                f"{path} holds {len(candidates)} arrays that could be the images"
                + (f": {', '.join(candidates)}" if candidates else ""),
                hint="name the one to take 'images'",
            )
        key = candidates[0]
    labels = None if label_key is None else np.asarray(archive[label_key])
    return np.asarray(archive[key]), labels


def _labels(path: Path, labels: NDArray[Any], images: NDArray[Any]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or labels.min() < 0:
        raise DataError(
            f"{path}: the labels are {labels.dtype} {_shape(labels)} for {len(images)} images",
            hint="one class index per image, not negative",
        )
    return labels.astype(np.int64)


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "a single value"
