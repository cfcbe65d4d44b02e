"""The facts about this machine that a latency depends on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from resnet_edge.device.driver import query_driver
from resnet_edge.device.jetson import Jetson, detect_jetson

__all__ = ["describe_machine"]


def describe_machine() -> dict[str, Any]:
    """Return processors, clocks, load, operating system and date, as plain JSON values."""
    jetson = detect_jetson()
    return {
        "gpus": [gpu.name for gpu in query_driver().gpus],
        "jetson": None if jetson is None else _board(jetson),
        "cpu": _cpu_model(),
        "logical_cpus": os.cpu_count(),
        "usable_cpus": _usable_cpus(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _board(jetson: Jetson) -> dict[str, Any]:
    mode, clock = jetson.power_mode, jetson.clock
    return {
        "model": jetson.model,
        "jetpack": jetson.jetpack,
        "power_mode": None if mode is None else mode.name,
        "clocks_locked": None if clock is None else clock.locked,
    }


def _usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
