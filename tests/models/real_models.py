"""Names, shapes and known logits of the models that other toolkits build, as stored fixtures.

``make_fixtures.py`` writes them where the toolkits are installed; the tests read them anywhere.
"""

from __future__ import annotations

import json
import lzma
import zlib
from functools import cache
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"

Shapes = dict[str, tuple[int, ...]]


@cache
def key_lists(source: str) -> dict[str, Shapes]:
    """Return names and shapes of every stored model of one source."""
    models: dict[str, Shapes] = {}
    shapes: Shapes = {}
    for line in lzma.decompress((FIXTURES / f"{source}.txt.xz").read_bytes()).decode().split("\n"):
        if line.startswith("# "):
            shapes = models.setdefault(line[2:], {})
        elif line:
            key, _, dimensions = line.partition("\t")
            shapes[key] = tuple(int(n) for n in dimensions.split())
    return models


def write_key_lists(source: str, models: dict[str, Shapes]) -> None:
    """Write what ``key_lists`` reads."""
    lines = []
    for name, shapes in models.items():
        lines.append(f"# {name}")
        lines += [f"{key}\t{' '.join(map(str, shape))}" for key, shape in shapes.items()]
    text = "\n".join(lines) + "\n"
    (FIXTURES / f"{source}.txt.xz").write_bytes(lzma.compress(text.encode(), preset=9))


def known_logits() -> dict[str, dict[str, list[float]]]:
    """Return the logits that real models gave for ``values`` as weights and as input."""
    found: dict[str, dict[str, list[float]]] = json.loads((FIXTURES / "logits.json").read_text())
    return found


def values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the same plausible weights for a name and shape on every machine.

    Batch norms get statistics of their own, so that a swapped or forgotten one changes the logits.
    """
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1)
    bits += np.uint32(zlib.crc32(key.encode()))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    uniform = (bits >> np.uint32(8)).astype(np.float32).reshape(shape) / np.float32(1 << 24)
    if key.endswith("running_var"):
        return uniform + np.float32(0.5)
    if len(shape) == 1 and not key.endswith(("bias", "running_mean")):
        return uniform * np.float32(0.5) + np.float32(0.5)
    centred = uniform * np.float32(2) - np.float32(1)
    fan_in = int(np.prod(shape[1:], dtype=np.int64)) if len(shape) > 1 else 10
    return centred * np.float32((6 / fan_in) ** 0.5 if len(shape) > 1 else 0.3)
