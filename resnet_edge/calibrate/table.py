"""The ranges table: what calibration found, as JSON and as a TensorRT calibration cache."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resnet_edge.artifacts import read_json, write_bytes, write_json
from resnet_edge.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["RangesTable", "TensorRange", "read_cache", "write_cache"]

_SCHEMA = 1
QMAX = 127
_SMALLEST_SCALE = 2.0**-126  # of float32, normal
# Any version: trtexec and TensorRT compare the algorithm's name, and skip the line otherwise.
_CACHE_HEADER = "TRT-8600-EntropyCalibration2"


@dataclass(frozen=True)
class TensorRange:
    """The range of one activation tensor.

    Attributes:
        amax: Largest magnitude to represent; INT8 scale is ``amax / 127``.
        minimum: Smallest value seen.
        maximum: Largest value seen.
        estimates: ``amax`` by every estimator, for comparison.
    """

    amax: float
    minimum: float
    maximum: float
    estimates: Mapping[str, float]


@dataclass(frozen=True)
class RangesTable:
    """Ranges of all calibrated tensors.

    Attributes:
        tensors: By tensor name in the FP32 graph.
        recipe: The recipe, as JSON.
        model_sha256: Hash of the ONNX file they belong to.
        images: Content hash of every calibration image.
        skipped: Number of images that could not be decoded.
    """

    tensors: Mapping[str, TensorRange]
    recipe: Mapping[str, Any]
    model_sha256: str
    images: tuple[str, ...]
    skipped: int

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
                    }
                    for name, r in self.tensors.items()
                },
                "skipped": self.skipped,
                "images": list(self.images),
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
                        float(r["amax"]), float(r["min"]), float(r["max"]), dict(r["estimates"])
                    )
                    for name, r in value["tensors"].items()
                },
                recipe=value["recipe"],
                model_sha256=str(value["model_sha256"]),
                images=tuple(str(key) for key in value["images"]),
                skipped=int(value["skipped"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(
                f"{path} is not a ranges table: {error}", hint="calibrate again"
            ) from error
        if bad := [n for n, r in table.tensors.items() if not 0 < r.amax < float("inf")]:
            raise CalibrationError(f"{path}: the range of {bad[0]} is not positive and finite")
        return table


def write_cache(table: RangesTable, path: Path) -> None:
    """Write a TensorRT calibration cache: tensor name and big-endian float32 scale in hex."""
    lines = [_CACHE_HEADER]
    for name, found in table.tensors.items():
        scale = max(found.amax / QMAX, _SMALLEST_SCALE)
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def read_cache(path: Path) -> dict[str, float]:
    """Read a TensorRT calibration cache.

    Names may contain colons and the hex digits may be unpadded, as NVIDIA's tools write them.

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
        if not separator or not name or not 0 < scale < float("inf"):
            raise CalibrationError(f"{path}, line {number}: {line!r} is not 'name: scale'")
        ranges[name] = scale * QMAX
    return ranges
