"""Memory and swap, from ``/proc/meminfo``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "read_memory"]


@dataclass(frozen=True)
class Memory:
    """Bytes of memory; 0 where the system does not say."""

    total: int = 0
    available: int = 0
    swap: int = 0


def read_memory(root: Path = Path("/")) -> Memory:
    """Read how much memory and swap there is; never raises."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return Memory()
    values = {key: int(kb) * 1024 for key, kb in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    return Memory(*(values.get(key, 0) for key in ("MemTotal", "MemAvailable", "SwapTotal")))
