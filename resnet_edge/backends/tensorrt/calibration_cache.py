"""TensorRT's calibration cache: tensor names and scales as text."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from resnet_edge.device.versions import to_integer
from resnet_edge.errors import CalibrationError
from resnet_edge.files import write_bytes
from resnet_edge.tensors import QMAX

__all__ = ["cache_for", "cache_header", "encode_cache", "read_cache", "write_cache"]

_SMALLEST_SCALE = 2.0**-126  # of float32, normal
_CACHE_VERSION = "8.6.0"  # of caches that are not written for a certain TensorRT


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
