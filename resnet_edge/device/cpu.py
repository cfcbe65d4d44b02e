"""What the processor of this machine does with 8-bit integers."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["sums_saturate"]

_X86 = ("x86_64", "amd64", "i386", "i686")
_VNNI = {"avx512_vnni", "avx_vnni"}


def sums_saturate(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether sums of uint8 x int8 products can overflow in this machine's integer kernels.

    Without VNNI an x86 adds two such products in 16 bits (VPMADDUBSW), which hold 2 x 255 x 64 but
    not 2 x 255 x 127. An x86 whose flags cannot be read counts as one without.

    Args:
        machine: Architecture; default this machine's.
        cpuinfo: Where Linux lists the processor's flags.
    """
    if (machine or platform.machine()).lower() not in _X86:
        return False
    try:
        text = cpuinfo.read_text()
    except OSError:
        return True
    lines = (line.partition(":") for line in text.splitlines())
    flags = {flag for key, _, value in lines if key.strip() == "flags" for flag in value.split()}
    return not flags & _VNNI
