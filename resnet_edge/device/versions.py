"""Version numbers: comparing them, and the integers that NVIDIA prints in their place."""

from __future__ import annotations

import re

__all__ = ["from_integer", "parts", "to_integer", "within"]


def parts(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``10.3.0.30-1+cuda12.5`` gives 10, 3, 0, 30."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(n) for n in found.group().split(".")) if found else ()


def within(version: str, low: str, high: str | None = None) -> bool:
    """Say whether ``low <= version <= high``; ``10.7`` as ``high`` takes in every 10.7.x.

    Args:
        version: For example ``10.3.0.30``.
        low: Oldest one.
        high: Newest one, None for no limit.
    """
    numbers = parts(version)
    if numbers < parts(low):
        return False
    return high is None or numbers[: len(parts(high))] <= parts(high)


def from_integer(number: int) -> str:
    """Write out the integer form of a TensorRT version: 8502 is 8.5.2, 100300 is 10.3.0."""
    scale = 10_000 if number >= 100_000 else 1000
    major, rest = divmod(number, scale)
    return f"{major}.{rest // 100}.{rest % 100}"


def to_integer(version: str) -> int:
    """Return the integer form of a TensorRT version: 8.5.2 is 8502, 10.3.0 is 100300."""
    major, minor, patch = (*parts(version), 0, 0, 0)[:3]
    return major * (1000 if major < 10 else 10_000) + minor * 100 + patch
