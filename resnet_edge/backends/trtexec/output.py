"""Read what trtexec exports: outputs and times.

Its JSON is written by hand: names are not escaped, and a value that is not a number stands there
as ``nan`` or ``inf``. The readers take that, and refuse everything else by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.base import Timings
from resnet_edge.errors import BackendUnavailableError

__all__ = ["check_outputs", "parse_outputs", "parse_times"]

_TENSOR = re.compile(
    r'\{ "name" : "(?P<name>[^\n]*?)"\s*, "dimensions" : "(?P<dimensions>[^"]*)"'
    r'\s*, "values" : \[ (?P<values>[^\]]*) \]\s*\}',
)


def parse_outputs(text: str) -> dict[str, NDArray[Any]]:
    """Read ``--exportOutput``: float32 arrays by name, with six significant digits.

    Raises:
        BackendUnavailableError: It is not what trtexec writes.
    """
    found: dict[str, NDArray[Any]] = {}
    rest = _TENSOR.sub("", text)
    if not re.fullmatch(r"\s*\[[\s,]*\]\s*", rest):
        raise _damaged("outputs", f"{rest.strip(' ,[]')[:80]!r} is not an output")
    for match in _TENSOR.finditer(text):
        name = match["name"]
        shape = tuple(int(n) for n in re.findall(r"\d+", match["dimensions"]))
        values = match["values"].split(",") if match["values"].strip() else []
        if len(values) != math.prod(shape) or name in found:
            raise _damaged("outputs", f"{name} has {len(values)} values for {match['dimensions']}")
        try:
            found[name] = np.array([float(v) for v in values], np.float32).reshape(shape)
        except ValueError as error:
            raise _damaged("outputs", f"{name}: {error}") from error
    if not found:
        raise _damaged("outputs", "there are none")
    return found


def parse_times(text: str, *, warm_up_ms: float) -> Timings:
    """Read ``--exportTimes``.

    A call's total is trtexec's *latency*, the sum of its parts. It is not taken from the start
    and end times: those are printed with six digits too, which after ten seconds is 0.1 ms.

    Args:
        text: The file.
        warm_up_ms: Calls that began to compute before do not count (8.2 exports them).

    Raises:
        BackendUnavailableError: It is not what trtexec writes, or no call is left.
    """
    try:
        records = json.loads(text)
        kept = [r for r in records if float(r["startComputeMs"]) >= warm_up_ms]
        columns = {
            name: tuple(_duration(record[key]) for record in kept)
            for name, key in (
                ("total", "latencyMs"), ("h2d", "h2dMs"), ("compute", "computeMs"), ("d2h", "d2hMs")
            )
        }  # fmt: skip
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged("times", f"{type(error).__name__}: {error}") from error
    if not kept:
        raise _damaged("times", "no call is left after the warm-up")
    return Timings(columns.pop("total"), columns)


def _duration(value: Any) -> float:
    milliseconds = float(value)
    if not 0 <= milliseconds < float("inf"):
        raise ValueError(f"{value} is not a duration")
    return milliseconds


def _damaged(what: str, why: str) -> BackendUnavailableError:
    return BackendUnavailableError(f"trtexec's {what} cannot be read: {why}")


def check_outputs(
    found: Mapping[str, NDArray[Any]], wanted: Mapping[str, tuple[int | None, ...]], batch: int
) -> None:
    """Compare names and shapes with what the engine's graph has.

    Args:
        found: From `parse_outputs`.
        wanted: Shapes by name, None where the batch goes.
        batch: Images of this call.

    Raises:
        BackendUnavailableError: They differ.
    """
    for name, shape in wanted.items():
        expected = tuple(batch if n is None else n for n in shape)
        if name not in found or found[name].shape != expected:
            have = found[name].shape if name in found else "missing"
            raise _damaged("outputs", f"{name} is {have}, the graph says {expected}")
