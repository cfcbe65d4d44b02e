"""Jetsons are recognized by their files, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.device.dpkg import installed_packages
from resnet_edge.device.jetpack import RELEASES, release_of
from resnet_edge.device.jetson import GpuClock, Jetson, PowerMode, best_mode, detect_jetson
from resnet_edge.device.memory import Memory, read_memory
from resnet_edge.device.versions import from_integer, parts, to_integer, within
from tests.device.trees import TREES, write_tree

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED = {
    # SoC, L4T, JetPack, power mode, fastest mode, locked
    "nano-jp46": ("tegra210", "32.7.1", "4.6.1", "MAXN", "MAXN", False),
    "xavier-nx-jp5": ("tegra194", "35.4.1", "5.1.2", "MODE_15W_6CORE", "MODE_20W_6CORE", False),
    "agx-orin-jp62-maxn": ("tegra234", "36.4.3", "6.2", "MAXN", "MAXN", True),
    "orin-nano-super": ("tegra234", "36.4.4", "6.2.1", "25W", "MAXN_SUPER", False),
    "orin-nano-jp60": ("tegra234", "36.3.0", "6.0", "7W", "15W", None),
    "thor-jp71": ("tegra264", "38.4.0", "7.1", "120W", "MAXN", False),
    "orin-container": ("tegra234", None, None, None, None, None),
}


def detected(name: str, root: Path) -> Jetson:
    jetson = detect_jetson(write_tree(TREES[name], root))
    assert jetson is not None
    return jetson


@pytest.mark.parametrize("name", EXPECTED)
def test_a_jetson_is_recognized(name: str, tmp_path: Path) -> None:
    jetson = detected(name, tmp_path)
    best = best_mode(jetson.power_modes)
    assert (
        jetson.soc,
        jetson.l4t,
        jetson.jetpack,
        jetson.power_mode.name if jetson.power_mode else None,
        best.name if best else None,
        jetson.clock.locked if jetson.clock else None,
    ) == EXPECTED[name]
    assert jetson.model == TREES[name].model


@pytest.mark.parametrize("name", ["desktop", "empty"])
def test_other_machines_are_no_jetson(name: str, tmp_path: Path) -> None:
    assert detect_jetson(write_tree(TREES[name], tmp_path)) is None


def test_an_arm_server_with_a_device_tree_is_no_jetson(tmp_path: Path) -> None:
    assert (
        detect_jetson(write_tree(replace(TREES["empty"], compatible=("apm,xgene",)), tmp_path))
        is None
    )


def test_part_numbers_of_module_and_carrier_are_kept(tmp_path: Path) -> None:
    assert detected("orin-nano-super", tmp_path).modules == ("p3768-0000", "p3767-0005")


def test_old_boards_name_their_module_in_boardids(tmp_path: Path) -> None:
    tree = replace(
        TREES["empty"],
        compatible=("nvidia,quill", "nvidia,tegra186"),
        files={"proc/device-tree/nvidia,boardids": "3310:1000:B02:500\0"},
    )
    jetson = detect_jetson(write_tree(tree, tmp_path))
    assert jetson is not None
    assert jetson.modules == ("p3310-1000",)


def test_without_the_release_file_the_package_says_which_l4t_it_is(tmp_path: Path) -> None:
    tree = replace(TREES["nano-jp46"], release="")
    jetson = detect_jetson(write_tree(tree, tmp_path))
    assert jetson is not None
    assert (jetson.l4t, jetson.jetpack) == ("32.7.1", "4.6.1")


def test_the_jetpack_package_wins_over_the_table(tmp_path: Path) -> None:
    tree = replace(TREES["thor-jp71"], debian={"nvidia-jetpack": "7.1.9-b12"})
    jetson = detect_jetson(write_tree(tree, tmp_path))
    assert jetson is not None
    assert jetson.jetpack == "7.1.9"


def test_a_damaged_tree_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/compatible": "nvidia,tegra234",
        "etc/nv_tegra_release": "garbage",
        "var/lib/nvpmodel/status": "pmode:0007",
        "sys/class/devfreq/17000000.gpu/min_freq": "fast",
        "proc/meminfo": "MemTotal: lots",
        "var/lib/dpkg/status": "Package: nvidia-jetpack\nStatus: deinstall ok\nVersion: 6",
    }
    jetson = detect_jetson(write_tree(replace(TREES["empty"], files=files), tmp_path))
    assert jetson == Jetson("", "tegra234", power_mode=PowerMode(7, "unknown"))
    assert read_memory(tmp_path) == Memory()


def test_memory_is_read(tmp_path: Path) -> None:
    memory = read_memory(write_tree(TREES["orin-nano-jp60"], tmp_path))
    assert memory == Memory(7_802_880 * 1024, 7_802_880 * 768, 3_900_000 * 1024)
    assert read_memory(tmp_path / "nowhere") == Memory()


def test_only_installed_packages_are_reported(tmp_path: Path) -> None:
    root = write_tree(TREES["orin-container"], tmp_path)
    assert installed_packages(root, {"libnvinfer10", "libnvinfer8"}) == {
        "libnvinfer10": "10.3.0.30-1+cuda12.5"
    }
    assert installed_packages(tmp_path / "nowhere", {"libc6"}) == {}


def test_a_patch_release_younger_than_the_table_keeps_the_jetpack_before_it() -> None:
    assert release_of("36.4.9") == release_of("36.4.7")
    for l4t in ("31.1.0", "37.0.0", "", "R36"):
        assert release_of(l4t) is None
    for release in RELEASES:
        assert release_of(release.l4t) == release


@pytest.mark.parametrize(
    ("modes", "best"),
    [
        (["Max-N", "Max-Q"], "Max-N"),
        (["10W", "7W_AI", "7W_CPU"], "10W"),
        (["15W", "MAXN_SUPER", "40W"], "MAXN_SUPER"),
        (["MODE_30W_2CORE", "MODE_30W_ALL", "MODE_30W_6CORE"], "MODE_30W_ALL"),
        (["5W", "odd"], "5W"),
    ],
)
def test_the_fastest_mode_is_found_by_name(modes: list[str], best: str) -> None:
    found = best_mode(PowerMode(i, name) for i, name in enumerate(modes))
    assert found is not None
    assert found.name == best
    assert best_mode([]) is None


def test_a_clock_that_cannot_move_is_locked() -> None:
    assert GpuClock(1, 1, 1).locked
    assert not GpuClock(1, 2, 1).locked


VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4)


def dotted(numbers: list[int]) -> str:
    return ".".join(map(str, numbers))


@given(VERSIONS, VERSIONS)
def test_a_range_holds_its_ends_and_their_patches(low: list[int], more: list[int]) -> None:
    high = dotted(low)
    assert within(high, high, high)
    assert within(dotted(low + more), high, high)
    assert not within(dotted([*low[:-1], low[-1] + 1]), high, high)
    assert within(dotted([99]), high)


@given(st.integers(4, 30), st.integers(0, 9), st.integers(0, 99), st.integers(0, 99))
def test_integer_versions_are_written_out_and_back(
    major: int, small: int, minor: int, patch: int
) -> None:
    if major < 10:
        number, version = major * 1000 + small * 100 + patch, f"{major}.{small}.{patch}"
    else:
        number, version = major * 10_000 + minor * 100 + patch, f"{major}.{minor}.{patch}"
    assert from_integer(number) == version
    assert to_integer(version) == to_integer(f"{version}.30-1+cuda12.5") == number


def test_versions_end_where_numbers_do() -> None:
    assert parts("10.3.0.30-1+cuda12.5") == (10, 3, 0, 30)
    assert parts("unknown") == ()
    assert not within("unknown", "1")
