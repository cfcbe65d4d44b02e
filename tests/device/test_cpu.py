from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from resnet_edge.device.cpu import sums_saturate

if TYPE_CHECKING:
    from pathlib import Path

# As Linux lists them, much shortened: Broadwell, Skylake-X, Cascade Lake, Alder Lake, Zen 4.
FLAGS = {
    "fpu sse4_2 avx avx2 fma": True,
    "avx2 avx512f avx512bw avx512vl": True,
    "avx2 avx512f avx512bw avx512_vnni": False,
    "avx2 avx_vnni": False,
    "avx2 avx512f avx512_vnni avx512_bf16": False,
    "avx2 avx512_vnni_but_another": True,
}


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("machine", ["x86_64", "AMD64"])
def test_an_x86_needs_vnni_to_add_products_without_overflow(
    tmp_path: Path, flags: str, machine: str
) -> None:
    text = "".join(
        f"processor\t: {i}\nmodel name\t: avx512_vnni\nflags\t\t: {flags}\nbugs\t: none\n\n"
        for i in range(2)
    )
    (tmp_path / "cpuinfo").write_text(text)
    assert sums_saturate(machine, tmp_path / "cpuinfo") is FLAGS[flags]


def test_what_cannot_be_read_counts_as_without(tmp_path: Path) -> None:
    assert sums_saturate("x86_64", tmp_path / "missing")
    (tmp_path / "cpuinfo").write_text("")
    assert sums_saturate("x86_64", tmp_path / "cpuinfo")


@pytest.mark.parametrize("machine", ["aarch64", "arm64", "armv7l"])
def test_other_architectures_add_in_32_bits(tmp_path: Path, machine: str) -> None:
    assert not sums_saturate(machine, tmp_path / "missing")
