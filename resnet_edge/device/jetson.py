"""Which Jetson this is, from files that anyone can read.

Every function takes the root of a file tree, so that the trees of other devices can be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resnet_edge.device.dpkg import installed_packages
from resnet_edge.device.jetpack import release_of

__all__ = ["GpuClock", "Jetson", "PowerMode", "best_mode", "detect_jetson", "gpu_clock", "rank"]

_MODULE = re.compile(r"p\d{4}-\d{4}")
_GPU_NODES = {"gm20b", "gp10b", "gv11b", "ga10b", "gpu"}


@dataclass(frozen=True)
class PowerMode:
    """A mode of ``nvpmodel``; ids differ from module to module.

    Attributes:
        id: What ``nvpmodel -m`` takes.
        name: For example ``MAXN`` or ``15W``.
    """

    id: int
    name: str


@dataclass(frozen=True)
class GpuClock:
    """Frequency limits of the GPU in Hz; they are equal when ``jetson_clocks`` has locked them."""

    minimum: int
    maximum: int
    current: int

    @property
    def locked(self) -> bool:
        """Whether the clock cannot move."""
        return self.minimum == self.maximum


@dataclass(frozen=True)
class Jetson:
    """A Jetson module and its system software.

    Attributes:
        model: What the device tree calls the board; empty where it cannot be read.
        soc: For example ``tegra234``.
        modules: Part numbers in the device tree, for example ``p3767-0005``; carriers included.
        l4t: Version of Jetson Linux; None in most containers.
        jetpack: Version of JetPack; None where it cannot be told.
        power_mode: The present one.
        power_modes: All modes of this module.
        clock: Of the GPU.
    """

    model: str
    soc: str
    modules: tuple[str, ...] = ()
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: PowerMode | None = None
    power_modes: tuple[PowerMode, ...] = ()
    clock: GpuClock | None = None


def detect_jetson(root: Path = Path("/")) -> Jetson | None:
    """Return the Jetson whose file tree this is, or None."""
    compatible = _strings(root / "proc/device-tree/compatible")
    release = _text(root / "etc/nv_tegra_release")
    socs = [c.removeprefix("nvidia,") for c in compatible if c.startswith("nvidia,tegra")]
    if not socs and not release:
        return None
    packages = installed_packages(root, {"nvidia-l4t-core", "nvidia-jetpack"})
    l4t = _l4t(release, packages.get("nvidia-l4t-core"))
    known = release_of(l4t) if l4t else None
    jetpack = packages.get("nvidia-jetpack", "").partition("-")[0].partition("+")[0]
    boards = _strings(root / "proc/device-tree/nvidia,boardids")
    names = [*compatible, *(f"p{b.replace(':', '-')}" for b in boards)]
    modes = _power_modes(_text(root / "etc/nvpmodel.conf"))
    return Jetson(
        model="".join(_strings(root / "proc/device-tree/model")[:1]),
        soc=socs[-1] if socs else "",
        modules=tuple(dict.fromkeys(m for name in names for m in _MODULE.findall(name))),
        l4t=l4t,
        jetpack=jetpack or (known.jetpack if known else None),
        power_mode=_power_mode(_text(root / "var/lib/nvpmodel/status"), modes),
        power_modes=modes,
        clock=gpu_clock(root),
    )


def best_mode(modes: Iterable[PowerMode]) -> PowerMode | None:
    """Return the fastest mode."""
    return max(modes, key=rank, default=None)


def rank(mode: PowerMode) -> tuple[float, float]:
    """Order modes by what their names allow: no limit at all, then watts, then CPU cores."""
    name = mode.name.upper().replace("-", "")
    if name.startswith("MAXN"):
        return float("inf"), float("inf")
    watts, cores = re.search(r"(\d+)W", name), re.search(r"(\d+)CORE", name)
    return float(watts[1]) if watts else 0.0, float(cores[1]) if cores else float("inf")


def _l4t(release: str, package: str | None) -> str | None:
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release)
    if found:
        return f"{found.group(1)}.{found.group(2)}"
    return package.partition("-")[0] if package else None


def _power_modes(configuration: str) -> tuple[PowerMode, ...]:
    found = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", configuration)
    return tuple(PowerMode(int(number), name) for number, name in found)


def _power_mode(status: str, modes: tuple[PowerMode, ...]) -> PowerMode | None:
    found = re.search(r"pmode:(\d+)", status)
    if not found:
        return None
    number = int(found.group(1))
    return next((mode for mode in modes if mode.id == number), PowerMode(number, "unknown"))


def gpu_clock(root: Path = Path("/")) -> GpuClock | None:
    """Return the clock of the GPU on the Jetson whose file tree this is, or None."""
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        node = "".join(_strings(device / "device/of_node/name"))
        if node not in _GPU_NODES and "gpu" not in device.name:
            continue
        values = [_text(device / name).strip() for name in ("min_freq", "max_freq", "cur_freq")]
        if all(value.isdecimal() for value in values):
            return GpuClock(*(int(value) for value in values))
    return None


def _strings(path: Path) -> list[str]:
    """Return the NUL-separated strings of a device-tree property."""
    return [part for part in _text(path).rstrip("\n").split("\0") if part]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not there, or not ours to read
        return ""
