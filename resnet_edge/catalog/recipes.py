"""Calibration recipes: small TOML files that users read, copy and extend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resnet_edge.catalog.entries import list_entries, load_entry
from resnet_edge.errors import ConfigError

__all__ = ["DEFAULT_RECIPE", "Recipe", "list_recipes", "load_recipe"]

DEFAULT_RECIPE = "auto"
_FOLDER = "calibration/recipes"
_METHODS = ("minmax", "percentile", "mse", "entropy", "entropy-tensorrt", "auto")


@dataclass(frozen=True)
class Recipe:
    """How activation ranges are chosen.

    Attributes:
        name: File name without ``.toml``.
        description: One line for ``resnet-edge recipes ls``.
        method: ``minmax``, ``percentile``, ``mse``, ``entropy``, ``entropy-tensorrt``, or
            ``auto`` for the bake-off.
        percent: Share of magnitudes kept by ``percentile``.
        images: Number of calibration images taken from the data set.
    """

    name: str
    description: str
    method: str
    percent: float = 99.99
    images: int = 512

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ConfigError(
                f"recipe {self.name}: unknown method {self.method!r}",
                hint=f"use one of {', '.join(_METHODS)}",
            )
        if not isinstance(self.images, int) or not isinstance(self.description, str):
            raise ConfigError(f"recipe {self.name}: images must be a whole number")
        if not 0 < self.percent <= 100 or self.images < 1:
            raise ConfigError(f"recipe {self.name}: percent must be in (0, 100] and images >= 1")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def load_recipe(name: str) -> Recipe:
    """Load a recipe by name or path.

    Raises:
        ConfigError: It does not exist or breaks the schema.
    """
    return load_entry(Recipe, _FOLDER, name)


def list_recipes() -> tuple[Recipe, ...]:
    """Load every recipe that can be found."""
    return list_entries(Recipe, _FOLDER)
