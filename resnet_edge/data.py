"""Image sources: an IDX pair, a flat image folder, or a class-per-folder tree.

Every ``--data DIR`` of the command line ends up in `open_images`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, cast

from resnet_edge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from resnet_edge.imaging import ImageSpec

__all__ = [
    "Batch",
    "FolderImages",
    "IdxImages",
    "ImageBatches",
    "ImageSource",
    "open_images",
    "read_idx",
    "resolve_labels",
    "write_idx",
]

Split = Literal["train", "test"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "t10k", "val", "validation")}
_MAX_CORRUPT = 0.10
_IDX_MAX_BYTES = 8 << 30


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
    """Open an IDX directory, a class-per-folder tree, or a flat folder of images.

    Args:
        path: The directory.
        split: Which part to take where the directory holds a training and a test part.
        labels: A CSV file ``file name,label`` (index or class name) for a flat folder.

    Raises:
        DataError: Nothing usable is there.
    """
    if not path.exists():
        raise DataError(f"no such image directory: {path}", hint="check the path given to --data")
    if not path.is_dir():
        raise DataError(
            f"{path} is a file, not a directory", hint="pass the directory that holds the images"
        )
    if pair := _find_idx(path, split):
        return _open_idx(path, *pair)
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
    if source.class_names is None:
        top = int(source.labels.max(initial=0))
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
    of the images cannot be decoded, the iteration ends with a `DataError`.

    Attributes:
        source: Where the images come from.
        spec: Geometry and colour the network expects.
        batch_size: Images per batch; the last one may be smaller.
        indices: Which images, in this order; default all.
        skipped: Names of the images that could not be decoded, filled while iterating.
    """

    source: ImageSource
    spec: ImageSpec
    batch_size: int = 64
    indices: Sequence[int] | None = None
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.source) if self.indices is None else len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        import numpy as np

        wanted = range(len(self.source)) if self.indices is None else self.indices
        self.skipped.clear()
        # Pillow releases the GIL while decoding and resizing, so threads are enough.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            chunks = [
                wanted[i : i + self.batch_size] for i in range(0, len(wanted), self.batch_size)
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
        if len(self.skipped) > _MAX_CORRUPT * total:
            raise DataError(
                f"{self.source.path}: {len(self.skipped)} of {total} images cannot be decoded, "
                f"the first is {self.skipped[0]}",
                hint="repair or remove the broken files; up to a tenth is skipped and counted",
            )


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
            if size > _IDX_MAX_BYTES:
                raise DataError(f"{path} claims {size} bytes of images")
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
    from resnet_edge.artifacts import write_bytes

    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    write_bytes(path, gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def _read_at_most(stream: BinaryIO, size: int) -> bytes:
    """Read up to ``size`` bytes, holding only what the file really has."""
    chunks = []
    while size > 0 and (chunk := stream.read(min(size, 1 << 20))):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


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
    labels = images[0].with_name(images[0].name.replace("images", "labels").replace("idx3", "idx1"))
    return images[0], labels if labels.exists() else None


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
        file = folder / "classes.txt"
        if file.is_file():
            return tuple(file.read_text(encoding="utf-8").splitlines())
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

    rows = _read_label_rows(labels)
    missing = [name for name, _ in rows if not (path / name).is_file()]
    if not rows or missing:
        raise DataError(
            f"{labels} names {missing[0] if missing else 'no image'}, which is not in {path}",
            hint="each line must be: file name,label",
        )
    values = [value for _, value in rows]
    files = tuple(path / name for name, _ in rows)
    if all(value.isdigit() for value in values):
        return FolderImages(path, files, np.array([int(v) for v in values], dtype=np.int64))
    names = tuple(sorted(set(values)))
    indices = np.array([names.index(v) for v in values], dtype=np.int64)
    return FolderImages(path, files, indices, names)


def _read_label_rows(labels: Path) -> list[tuple[str, str]]:
    try:
        with labels.open(newline="", encoding="utf-8") as stream:
            rows: list[Any] = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the labels file {labels}: {error}") from error
    if any(len(row) != 2 for row in rows):
        raise DataError(f"{labels} must have two columns: file name,label")
    return [(row[0].strip(), row[1].strip()) for row in rows]
