"""Labels of images: the text files that hold them, and what they mean to a model."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.errors import DataError
from resnet_edge.images.source import ImageSource

__all__ = ["read_class_names", "read_label_rows", "resolve_labels"]


def read_class_names(file: Path) -> tuple[str, ...]:
    """Read the names of the classes in index order, one a line.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return tuple(file.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names in {file}: {error}") from error


def read_label_rows(labels: Path) -> list[tuple[str, str]]:
    """Read a CSV file of two columns: file name and label.

    Raises:
        DataError: It cannot be read, or has other columns.
    """
    try:
        with labels.open(newline="", encoding="utf-8-sig") as stream:
            rows: list[Any] = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the labels file {labels}: {error}") from error
    if any(len(row) != 2 for row in rows):
        raise DataError(f"{labels} must have two columns: file name,label")
    return [(row[0].strip(), row[1].strip()) for row in rows]


def resolve_labels(
    source: ImageSource, *, class_names: Sequence[str] | None, num_classes: int
) -> NDArray[np.int64] | None:
    """Return the source's labels as class indices of the model.

    Class folders map by name when the model's labels are known, by sorted order only when the
    number of folders equals the number of classes.

    Raises:
        DataError: The labels cannot belong to this model.
    """
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
