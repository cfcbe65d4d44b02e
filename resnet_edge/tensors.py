"""What goes into a network and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QMAX", "TensorSpec"]

QMAX = 127  # largest magnitude of a symmetric INT8 value


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of an input or output.

    Attributes:
        name: Tensor name.
        shape: Extents; None where dynamic.
        dtype: numpy name, for example ``float32``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
