"""Image sources: an IDX pair, CIFAR-10, an image folder or class-per-folder tree, an array file.

Every ``--data DIR`` of the command line ends up in `open_images`.
"""

from __future__ import annotations

from pathlib import Path

from resnet_edge.errors import DataError
from resnet_edge.images.arrays import open_array_images, open_arrays
from resnet_edge.images.cifar import find_cifar10, open_cifar10
from resnet_edge.images.folder import open_flat, open_folder
from resnet_edge.images.idx import find_idx, idx_files, open_idx
from resnet_edge.images.source import SPLIT_NAMES, ImageSource, NetworkInputs, Split

__all__ = ["open_calibration", "open_images"]


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
    if pair := find_idx(path, split):
        return open_idx(path, *pair)
    if batches := find_cifar10(path, split):
        return open_cifar10(path, batches)
    children = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = {p.name.lower(): p for p in children}
    if any(n in names for n in SPLIT_NAMES["train"]) and any(
        n in names for n in SPLIT_NAMES["test"]
    ):
        part = next(names[n] for n in SPLIT_NAMES[split] if n in names)
        return open_images(part, split=split, labels=labels)
    if any(idx_files(p) for p in children):
        raise DataError(
            f"{path} holds several image sets: {', '.join(p.name for p in children)}",
            hint=f"pass one of them, for example --data {children[0]}",
        )
    if labels is not None:
        return open_flat(path, labels)
    return open_folder(path, children)


def open_calibration(path: Path, labels: Path | None = None) -> ImageSource | NetworkInputs:
    """Open what ``calibrate`` takes: images as for training, or float32 network inputs.

    Args:
        path: A directory or an array file.
        labels: A labels file, which only a flat folder can have.

    Raises:
        DataError: Nothing usable is there.
    """
    if path.is_file() and labels is None:
        return open_arrays(path)
    return open_images(path, split="train", labels=labels)
