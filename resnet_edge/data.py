"""Image sources: an IDX pair, CIFAR-10, an image folder or class-per-folder tree, an array file.

Every ``--data DIR`` of the command line ends up in `open_images`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from resnet_edge.arrays import open_array_images
from resnet_edge.cifar import find_cifar10, open_cifar10
from resnet_edge.errors import DataError
from resnet_edge.idx import read_idx
from resnet_edge.label_files import read_class_names, read_label_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


__all__ = ["FolderImages", "IdxImages", "ImageSource", "open_images", "resolve_labels"]

Split = Literal["train", "test"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "t10k", "val", "validation")}


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


@dataclass
class IdxImages:
    """Images and labels of an IDX pair (the MNIST format), held in memory as uint8 N x H x W."""

    path: Path
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image in mode ``L``."""
        from PIL import Image

        return Image.fromarray(self.pixels[index])

    def key(self, index: int) -> str:
        """Return the SHA-256 of the pixels."""
        return hashlib.sha256(self.pixels[index].tobytes()).hexdigest()

    def name(self, index: int) -> str:
        """Return file and position."""
        return f"{self.path} #{index}"


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
        from PIL import Image

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


def open_images(path: Path, *, split: Split = "test", labels: Path | None = None) -> ImageSource:
    """Open an IDX directory, CIFAR-10, a tree or a folder of images, or a .npy or .npz file.

    Args:
        path: The directory or file.
        split: Which part to take where the directory holds a training and a test part.
        labels: A CSV file ``file name,label`` (index or class name) for a flat folder.

    Raises:
        DataError: Nothing usable is there.
    """
    if not path.exists():
        raise DataError(f"no such image directory: {path}", hint="check the path given to --data")
    if not path.is_dir():
        return open_array_images(path, labels)
    if pair := _find_idx(path, split):
        return _open_idx(path, *pair)
    if batches := find_cifar10(path, split):
        return open_cifar10(path, batches)
    children = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = {p.name.lower(): p for p in children}
    if any(n in names for n in _SPLIT_NAMES["train"]) and any(
        n in names for n in _SPLIT_NAMES["test"]
    ):
        part = next(names[n] for n in _SPLIT_NAMES[split] if n in names)
        return open_images(part, split=split, labels=labels)
    if any(_idx_files(p) for p in children):
        raise DataError(
            f"{path} holds several image sets: {', '.join(p.name for p in children)}",
            hint=f"pass one of them, for example --data {children[0]}",
        )
    if labels is not None:
        return _open_flat(path, labels)
    return _open_folder(path, children)


def resolve_labels(
    source: ImageSource, *, class_names: Sequence[str] | None, num_classes: int
) -> NDArray[np.int64] | None:
    """Return the source's labels as class indices of the model.

    Class folders map by name when the model's labels are known, by sorted order only when the
    number of folders equals the number of classes.

    Raises:
        DataError: The labels cannot belong to this model.
    """
    import numpy as np

    if source.labels is None:
        return None
    top = int(source.labels.max(initial=0))
    if source.class_names is not None and top >= len(source.class_names):
        raise DataError(
            f"{source.path} has label {top}, but only {len(source.class_names)} class names",
            hint="complete classes.txt, one name a line",
        )
    if source.class_names is None:
        if top >= num_classes:
            raise DataError(
                f"{source.path} has label {top}, but the model has only {num_classes} classes",
                hint="these images belong to another model",
            )
        return source.labels
    if class_names is not None:
        index = {name: i for i, name in enumerate(class_names)}
        unknown = [name for name in source.class_names if name not in index]
        if not unknown:
            table = np.array([index[name] for name in source.class_names], dtype=np.int64)
            return table[source.labels]
        if len(unknown) < len(source.class_names) or len(source.class_names) != num_classes:
            raise DataError(
                f"{source.path}: class folder {unknown[0]!r} is not among the model's labels",
                hint=f"the model knows {', '.join(list(class_names)[:10])}",
            )
    if len(source.class_names) != num_classes:
        raise DataError(
            f"{source.path} has {len(source.class_names)} class folders, the model has "
            f"{num_classes} classes",
            hint="name the folders as the model's labels, or pass a flat folder with --labels FILE",
        )
    return source.labels


def _idx_files(path: Path) -> list[Path]:
    return sorted(
        p for p in path.iterdir() if "images-idx3-ubyte" in p.name.replace(".idx3", "-idx3")
    )


def _find_idx(path: Path, split: Split) -> tuple[Path, Path | None] | None:
    images = _idx_files(path)
    if not images:
        return None
    if len(images) > 1:
        images = [p for p in images if p.name.lower().startswith(_SPLIT_NAMES[split])]
        if not images:
            raise DataError(f"{path} holds several IDX image files and none is named as {split}")
    name = images[0].name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    labels = [p for p in (path / f"{name}.gz", path / name) if p.exists()]
    return images[0], labels[0] if labels else None


def _open_idx(path: Path, images: Path, labels: Path | None) -> IdxImages:
    import numpy as np

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
    return IdxImages(path, pixels, values, None if values is None else _class_names(path))


def _class_names(path: Path) -> tuple[str, ...] | None:
    """Read ``classes.txt``, one name a line, beside the IDX files or one folder up."""
    for folder in (path, path.resolve().parent):
        if (folder / "classes.txt").is_file():
            return read_class_names(folder / "classes.txt")
    return None


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _open_folder(path: Path, children: list[Path]) -> FolderImages:
    import numpy as np

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


def _open_flat(path: Path, labels: Path) -> FolderImages:
    import numpy as np

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
