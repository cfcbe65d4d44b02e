"""What the GPU's clock did while something was measured, and what held it back."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from resnet_edge.device.jetson import gpu_clock

__all__ = ["GpuClocks", "watch_clocks"]

_INTERVAL = 0.5  # seconds
_FIELDS = "clocks.sm,clocks.max.sm,clocks_throttle_reasons.active"
_IDLE = 0x1
# nvmlClocksEventReasons in nvml.h; the other bits are settings, not limits that were run into.
_REASONS = {
    0x04: "power cap", 0x08: "hardware slowdown", 0x20: "temperature (software)",
    0x40: "temperature (hardware)", 0x80: "power brake",
}  # fmt: skip


@dataclass
class GpuClocks:
    """Clock of the busy GPU, sampled twice a second.

    Attributes:
        mhz: Samples, in MHz; those of an idle GPU are left out where that is known.
        limit_mhz: Highest clock of this GPU, or of the power mode; 0 until there is a sample.
        held_back: What lowered the clock: ``power cap``, ``temperature (software)`` …
    """

    mhz: list[int] = field(default_factory=list)
    limit_mhz: int = 0
    held_back: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any] | None:
        """Return plain JSON values; None where nothing was sampled."""
        if not self.mhz:
            return None
        return {
            "samples": len(self.mhz), "min_mhz": min(self.mhz), "max_mhz": max(self.mhz),
            "limit_mhz": self.limit_mhz, "held_back": self.held_back,
        }  # fmt: skip


@contextmanager
def watch_clocks() -> Iterator[GpuClocks]:
    """Sample the first GPU's clock meanwhile; filled in at the end, empty where there is no GPU."""
    found = GpuClocks()
    watch: AbstractContextManager[None] = nullcontext()
    if gpu_clock() is not None:
        watch = _watch_jetson(found)
    elif shutil.which("nvidia-smi"):
        watch = _watch_smi(found)
    with watch:
        yield found


@contextmanager
def _watch_jetson(found: GpuClocks) -> Iterator[None]:
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_INTERVAL):
            if (clock := gpu_clock()) is not None:
                found.mhz.append(clock.current // 1_000_000)
                found.limit_mhz = clock.maximum // 1_000_000

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _watch_smi(found: GpuClocks) -> Iterator[None]:
    """Let nvidia-smi sample, as a process of its own; the driver says what held the clock back."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
    command = [
        "nvidia-smi", f"--id={visible or 0}", f"--query-gpu={_FIELDS}",
        "--format=csv,noheader,nounits", f"--loop-ms={_INTERVAL * 1000:.0f}",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            said.seek(0)
            _read(said.read(), found)


def _read(text: str, found: GpuClocks) -> None:
    """Add nvidia-smi's samples; a line that was cut off, or that says [N/A], is none."""
    for line in text.splitlines():
        try:
            clock, limit, reasons = line.split(",")
            mhz, most, bits = int(clock), int(limit), int(reasons, 16)
        except ValueError:
            continue
        if bits & _IDLE:
            continue
        found.mhz.append(mhz)
        found.limit_mhz = most
        found.held_back += [
            name for bit, name in _REASONS.items() if bits & bit and name not in found.held_back
        ]
