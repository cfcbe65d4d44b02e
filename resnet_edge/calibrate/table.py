"""The ranges table: what calibration found, as JSON and as a TensorRT calibration cache."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resnet_edge.device.versions import to_integer
from resnet_edge.errors import CalibrationError
from resnet_edge.files import read_json, write_bytes, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "RangesTable",
    "TensorRange",
    "cache_for",
    "cache_header",
    "encode_cache",
    "read_cache",
    "write_cache",
]

_SCHEMA = 1
QMAX = 127
_FAR = 4  # times
_SMALLEST_SCALE = 2.0**-126  # of float32, normal
_CACHE_VERSION = "8.6.0"  # of caches that are not written for a certain TensorRT


@dataclass(frozen=True)
class TensorRange:
    """The range of one activation tensor.

    Attributes:
        amax: Largest magnitude to represent; INT8 scale is ``amax / 127``.
        minimum: Smallest value seen.
        maximum: Largest value seen.
        estimates: ``amax`` by every estimator, for comparison.
        sqnr: Signal to quantization noise of the tensor in dB, by every estimator.
    """

    amax: float
    minimum: float
    maximum: float
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
        if self.minimum == self.maximum:
            return "zero throughout" if self.minimum == 0 else f"{self.minimum:.4g} throughout"
        far = sum(
            not self.amax / _FAR <= other <= self.amax * _FAR for other in self.estimates.values()
        )
        if 2 * far > len(self.estimates):
            return (
                f"{far} of {len(self.estimates)} estimators differ from its range by over {_FAR} x"
            )
        return None


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

    tensors: Mapping[str, TensorRange]
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
        write_json(
            path,
            {
                "schema": _SCHEMA,
                "model_sha256": self.model_sha256,
                "recipe": dict(self.recipe),
                "tensors": {
                    name: {
                        "amax": r.amax,
                        "min": r.minimum,
                        "max": r.maximum,
                        "estimates": dict(r.estimates),
                        "sqnr": dict(r.sqnr),
                    }
                    for name, r in self.tensors.items()
                },
                "skipped": self.skipped,
                "images": list(self.images),
                "chosen_on": list(self.chosen_on),
                "trials": [dict(trial) for trial in self.trials],
            },
        )

    @classmethod
    def load(cls, path: Path) -> RangesTable:
        """Read what ``save`` wrote.

        Raises:
            CalibrationError: The table is malformed or holds ranges that are not positive.
        """
        value = read_json(path)
        try:
            table = cls(
                tensors={
                    str(name): TensorRange(
                        float(r["amax"]),
                        float(r["min"]),
                        float(r["max"]),
                        dict(r["estimates"]),
                        dict(r.get("sqnr", {})),
                    )
                    for name, r in value["tensors"].items()
                },
                recipe=value["recipe"],
                model_sha256=str(value["model_sha256"]),
                images=tuple(str(key) for key in value["images"]),
                skipped=int(value["skipped"]),
                chosen_on=tuple(str(key) for key in value["chosen_on"]),
                trials=tuple(dict(trial) for trial in value["trials"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(
                f"{path} is not a ranges table: {error}", hint="calibrate again"
            ) from error
        if bad := [n for n, r in table.tensors.items() if not 0 < r.amax < float("inf")]:
            raise CalibrationError(f"{path}: the range of {bad[0]} is not positive and finite")
        return table


def write_cache(ranges: Mapping[str, float], path: Path) -> None:
    """Write a TensorRT calibration cache; see `encode_cache`."""
    write_bytes(path, encode_cache(ranges))


def encode_cache(ranges: Mapping[str, float]) -> bytes:
    """Return a TensorRT calibration cache: tensor name and big-endian float32 scale in hex.

    Args:
        ranges: ``amax`` by tensor name.
    """
    lines = [cache_header(_CACHE_VERSION)]
    for name, amax in ranges.items():
        scale = max(amax / QMAX, _SMALLEST_SCALE)
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return ("\n".join(lines) + "\n").encode()


def cache_header(version: str) -> str:
    """Return the first line of a calibration cache that this TensorRT version wrote."""
    return f"TRT-{to_integer(version)}-EntropyCalibration2"


def cache_for(version: str, cache: bytes) -> bytes:
    """Return a calibration cache as this TensorRT version would have written it.

    TensorRT does not use the cache of another version, and calibrates without images instead.
    """
    _, _, entries = cache.partition(b"\n")
    return cache_header(version).encode() + b"\n" + entries


def read_cache(path: Path) -> dict[str, float]:
    """Read a TensorRT calibration cache.

    Names may contain colons and the hex digits may be unpadded, as NVIDIA's tools write them. A
    tensor of scale 0, for which TensorRT found none, is left out.

    Returns:
        ``amax`` by tensor name.

    Raises:
        CalibrationError: The file is not such a cache.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"cannot read the calibration cache {path}: {error}") from error
    if not lines or not lines[0].startswith("TRT-"):
        raise CalibrationError(
            f"{path} is not a TensorRT calibration cache", hint="its first line must be TRT-…"
        )
    ranges = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        name, separator, digits = line.rpartition(":")
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(digits.strip().zfill(8)))
        except (ValueError, struct.error) as error:
            raise CalibrationError(f"{path}, line {number}: {digits!r} is not a scale") from error
        if not separator or not name or not digits.strip() or not 0 <= scale < float("inf"):
            raise CalibrationError(f"{path}, line {number}: {line!r} is not 'name: scale'")
        if scale:
            ranges[name] = scale * QMAX
    return ranges
