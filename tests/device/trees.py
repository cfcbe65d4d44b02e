"""File trees as Jetsons show them, written down from public recordings.

Sources: jetson_stats (jtop/core/jetson_variables.py, tests), device trees of the Linux kernel
(nvidia/tegra*.dts), nvpmodel.conf and nv_tegra_release as quoted in public repositories. Nothing
here was read on a board by this project.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TREES", "Tree", "write_tree"]


@dataclass(frozen=True)
class Tree:
    """The files of one machine.

    Attributes:
        compatible: Of the device tree.
        model: Of the device tree.
        release: First line of /etc/nv_tegra_release.
        modes: Of /etc/nvpmodel.conf.
        mode: Of /var/lib/nvpmodel/status.
        clock: Node, devfreq name and minimum, maximum, current frequency of the GPU.
        memory_kb: MemTotal.
        swap_kb: SwapTotal.
        debian: Installed packages.
        files: Anything else, by path.
    """

    compatible: tuple[str, ...] = ()
    model: str = ""
    release: str = ""
    modes: tuple[tuple[int, str], ...] = ()
    mode: int | None = None
    clock: tuple[str, str, int, int, int] | None = None
    memory_kb: int = 0
    swap_kb: int = 0
    debian: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


_SUPER = ((0, "15W"), (1, "25W"), (2, "MAXN_SUPER"), (3, "7W"))
_XAVIER_NX = tuple(
    enumerate(
        f"MODE_{mode}"
        for mode in (
            "15W_2CORE", "15W_4CORE", "15W_6CORE", "10W_2CORE", "10W_4CORE", "10W_DESKTOP",
            "20W_2CORE", "20W_4CORE", "20W_6CORE",
        )
    )
)  # fmt: skip

TREES = {
    "nano-jp46": Tree(
        compatible=("nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano",
                    "nvidia,tegra210"),
        model="NVIDIA Jetson Nano Developer Kit",
        release="# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, "
        "DATE: Sat Feb 19 17:05:08 UTC 2022",
        modes=((0, "MAXN"), (1, "5W")), mode=0,
        clock=("gm20b", "57000000.gpu", 76_800_000, 921_600_000, 76_800_000),
        memory_kb=4_059_136, swap_kb=2_029_568,
        debian={"nvidia-l4t-core": "32.7.1-20220219090432", "libnvinfer-bin": "8.2.1-1+cuda10.2"},
    ),
    "xavier-nx-jp5": Tree(
        compatible=("nvidia,p3509-0000+p3668-0001", "nvidia,tegra194"),
        model="NVIDIA Jetson Xavier NX Developer Kit",
        release="# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
        "DATE: Tue Aug  1 19:57:35 UTC 2023",
        modes=_XAVIER_NX, mode=2,
        clock=("gv11b", "17000000.gv11b", 114_750_000, 1_109_250_000, 114_750_000),
        memory_kb=15_894_528, swap_kb=7_947_264,
    ),
    "agx-orin-jp62-maxn": Tree(
        compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
        model="NVIDIA Jetson AGX Orin Developer Kit",
        release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025",
        modes=((0, "MAXN"), (1, "MODE_15W"), (2, "MODE_30W"), (3, "MODE_50W")), mode=0,
        clock=("gpu", "17000000.gpu", 1_300_500_000, 1_300_500_000, 1_300_500_000),
        memory_kb=64_325_644, swap_kb=32_162_816,
        debian={"nvidia-jetpack": "6.2+b77", "libnvinfer10": "10.3.0.30-1+cuda12.5"},
    ),
    "orin-nano-super": Tree(
        compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,tegra234"),
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        release="# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, "
        "DATE: Mon Jun 16 16:07:13 UTC 2025",
        modes=_SUPER, mode=1,
        clock=("gpu", "17000000.gpu", 306_000_000, 918_000_000, 306_000_000),
        memory_kb=7_802_880, swap_kb=0,
    ),
    "orin-nano-jp60": Tree(
        compatible=("nvidia,p3768-0000+p3767-0003", "nvidia,tegra234"),
        model="NVIDIA Jetson Orin Nano Developer Kit",
        release="# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64, "
        "DATE: Fri Jul 19 23:24:25 UTC 2024",
        modes=((0, "15W"), (1, "7W")), mode=1, memory_kb=7_802_880, swap_kb=3_900_000,
    ),
    "thor-jp71": Tree(
        compatible=("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
        model="NVIDIA Jetson AGX Thor Developer Kit",
        release="# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64, "
        "DATE: Tue Dec 30 17:00:37 UTC 2025",
        modes=((0, "MAXN"), (1, "120W")), mode=1,
        clock=("gpu-gpc-0", "gpu-gpc-0", 315_000_000, 1_575_000_000, 315_000_000),
        memory_kb=128_790_528, swap_kb=0,
    ),
    "orin-container": Tree(  # the device tree shows through; nothing of Jetson Linux is inside
        compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,tegra234"),
        model="NVIDIA Jetson AGX Orin Developer Kit", memory_kb=64_325_644,
        debian={"libnvinfer10": "10.3.0.30-1+cuda12.5", "libc6": "2.35"},
    ),
    "desktop": Tree(memory_kb=65_761_024, swap_kb=8_388_604, debian={"libc6": "2.39"}),
    "empty": Tree(),
}  # fmt: skip


def write_tree(tree: Tree, root: Path) -> Path:
    """Write a tree's files below ``root``."""
    files = dict(tree.files)
    if tree.compatible:
        files["proc/device-tree/compatible"] = "".join(f"{c}\0" for c in tree.compatible)
    if tree.model:
        files["proc/device-tree/model"] = tree.model + "\0"
    if tree.release:
        files["etc/nv_tegra_release"] = tree.release + "\n# KERNEL_VARIANT: oot\n"
    if tree.modes:
        blocks = [
            f"< POWER_MODEL ID={i} NAME={name} >\nGPU MAX_FREQ -1\n" for i, name in tree.modes
        ]
        files["etc/nvpmodel.conf"] = "\n".join([*blocks, "< PM_CONFIG DEFAULT=0 >"])
    if tree.mode is not None:
        files["var/lib/nvpmodel/status"] = f"pmode:{tree.mode:04d} fmode:fan_mode_quiet"
    if tree.clock:
        node, name, low, high, now = tree.clock
        folder = f"sys/class/devfreq/{name}"
        files[f"{folder}/device/of_node/name"] = node + "\0"
        for key, value in (("min_freq", low), ("max_freq", high), ("cur_freq", now)):
            files[f"{folder}/{key}"] = f"{value}\n"
        files["sys/class/devfreq/a-cpu-thing/min_freq"] = "1\n"
    if tree.memory_kb:
        files["proc/meminfo"] = (
            f"MemTotal:       {tree.memory_kb} kB\nMemFree:  1000 kB\n"
            f"MemAvailable:   {tree.memory_kb * 3 // 4} kB\nSwapTotal:  {tree.swap_kb} kB\n"
        )
    if tree.debian:
        installed = "Status: install ok installed\nPriority: optional\nArchitecture: arm64"
        files["var/lib/dpkg/status"] = "\n".join(
            f"Package: {name}\n{installed}\nVersion: {version}\nDescription: x\n y\n"
            for name, version in tree.debian.items()
        )
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root
