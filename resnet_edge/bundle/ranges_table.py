"""The ranges table: what calibration found, as JSON and as a TensorRT calibration cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_edge.errors import CalibrationError, ConfigError
from resnet_edge.files import read_json, write_json
from resnet_edge.schema import decode, encode

__all__ = ["Ranges", "RangesTable", "TensorRange"]

_SCHEMA = 1
_FAR = 4  # times


@dataclass(frozen=True)
class TensorRange:
    """The range of one activation tensor.

    Attributes:
        amax: Largest magnitude to represent; INT8 scale is ``amax / 127``.
        min: Smallest value seen.
        max: Largest value seen.
        estimates: ``amax`` by every estimator, for comparison.
        sqnr: Signal to quantization noise of the tensor in dB, by every estimator.
    """

    amax: float
    min: float
    max: float
    estimates: Mapping[str, float]
    sqnr: Mapping[str, float] = field(default_factory=dict)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise under ``amax``; None where it was not computed."""
        found = [self.sqnr[m] for m, amax in self.estimates.items() if amax == self.amax]
        return found[0] if found else None

    @property
    def suspicion(self) -> str | None:
        """What looks wrong with this tensor, or None."""
        if self.min == self.max:
            return "zero throughout" if self.min == 0 else f"{self.min:.4g} throughout"
        far = sum(
            not self.amax / _FAR <= other <= self.amax * _FAR for other in self.estimates.values()
        )
        if 2 * far > len(self.estimates):
            return (
                f"{far} of {len(self.estimates)} estimators differ from its range by over {_FAR} x"
            )
        return None


Ranges = Mapping[str, TensorRange]  # by tensor name


@dataclass(frozen=True)
class RangesTable:
    """Ranges of all calibrated tensors.

    Attributes:
        tensors: By tensor name in the FP32 graph.
        recipe: The recipe, as JSON; with the key ``random`` if the inputs were.
        model_sha256: Hash of the ONNX file they belong to.
        images: Content hash of every calibration image.
        skipped: Number of images that could not be decoded.
        chosen_on: Content hash of every image the bake-off scored on.
        trials: What the bake-off tried, empty without one.
    """

    tensors: Ranges
    recipe: Mapping[str, Any]
    model_sha256: str
    images: tuple[str, ...]
    skipped: int
    chosen_on: tuple[str, ...] = ()
    trials: tuple[Mapping[str, Any], ...] = ()

    @property
    def amax(self) -> dict[str, float]:
        """The largest magnitude of each tensor."""
        return {name: found.amax for name, found in self.tensors.items()}

    @property
    def used(self) -> frozenset[str]:
        """Every image the ranges depend on: calibrated on, or chosen on."""
        return frozenset((*self.images, *self.chosen_on))

    @property
    def random(self) -> int:
        """Number of random inputs the ranges come from, 0 if they come from images."""
        return int(self.recipe.get("random", 0))

    @property
    def suspicions(self) -> tuple[str, ...]:
        """What looks wrong, a line per tensor."""
        found = {name: r.suspicion for name, r in self.tensors.items()}
        return tuple(f"{name}: {what}" for name, what in found.items() if what)

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        order = ("model_sha256", "recipe", "tensors", "skipped", "images", "chosen_on", "trials")
        write_json(path, {"schema": _SCHEMA, **{key: encode(getattr(self, key)) for key in order}})

    @classmethod
    def load(cls, path: Path) -> RangesTable:
        """Read what ``save`` wrote.

        Raises:
            CalibrationError: The table is malformed or holds ranges that are not positive.
        """
        try:
            table = decode(cls, read_json(path), "it", strict=False)
        except ConfigError as error:
            raise CalibrationError(
                f"{path} is not a ranges table: {error.message}", hint="calibrate again"
            ) from error
        if bad := [n for n, r in table.tensors.items() if not 0 < r.amax < float("inf")]:
            raise CalibrationError(f"{path}: the range of {bad[0]} is not positive and finite")
        return table
