"""Text files beside images: the names of the classes, and the label of every file."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_class_names", "read_label_rows"]


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
