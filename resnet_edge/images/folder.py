"""Folders of image files: one folder a class, or flat with a file of labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_edge.errors import DataError
from resnet_edge.images.labels import read_label_rows

__all__ = ["FolderImages"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass
class FolderImages:
    """Image files below a folder."""

    path: Path
    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> Image.Image:
        """Decode one file completely."""
        image: Image.Image = Image.open(self.files[index])
        with image:
            image.load()
        return image

    def key(self, index: int) -> str:
        """Return the SHA-256 of the file."""
        return hashlib.sha256(self.files[index].read_bytes()).hexdigest()

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self.files[index])


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def open_folder(path: Path, children: list[Path]) -> FolderImages:
    by_class = [(child.name, _image_files(child)) for child in children]
    by_class = [(name, files) for name, files in by_class if files]
    direct = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
    if by_class and not direct:
        files = tuple(f for _, group in by_class for f in group)
        indices = np.repeat(np.arange(len(by_class)), [len(group) for _, group in by_class])
        return FolderImages(
            path, files, indices.astype(np.int64), tuple(name for name, _ in by_class)
        )
    files = tuple(_image_files(path))
    if not files:
        raise DataError(
            f"{path} holds no images",
            hint=f"expected an IDX pair or files ending in {', '.join(sorted(_SUFFIXES))}",
        )
    return FolderImages(path, files, None)


def open_flat(path: Path, labels: Path) -> FolderImages:
    rows = read_label_rows(labels)
    missing = [name for name, _ in rows if not (path / name).is_file()]
    if not rows or missing:
        raise DataError(
            f"{labels} names {missing[0] if missing else 'no image'}, which is not in {path}",
            hint="each line must be: file name,label",
        )
    values = [value for _, value in rows]
    files = tuple(path / name for name, _ in rows)
    if all(value.isascii() and value.isdigit() and len(value) < 10 for value in values):
        return FolderImages(path, files, np.array([int(v) for v in values], dtype=np.int64))
    names = tuple(sorted(set(values)))
    indices = np.array([names.index(v) for v in values], dtype=np.int64)
    return FolderImages(path, files, indices, names)
