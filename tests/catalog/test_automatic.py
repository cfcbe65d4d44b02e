"""``--target auto`` finds the target of the machine, and says so where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from resnet_edge.backends.config import BuildConfig
from resnet_edge.build.request import Request, check_request
from resnet_edge.catalog import automatic
from resnet_edge.catalog.automatic import automatic_target, resolve_target
from resnet_edge.catalog.targets import Target, list_targets, load_target
from resnet_edge.device.jetson import detect_jetson
from resnet_edge.device.memory import read_memory
from resnet_edge.device.nvidia import Gpu, NvidiaDriver
from resnet_edge.errors import ConfigError
from tests.device.trees import TREES, Tree, write_tree

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
TARGETS = list_targets()


def target_of(tree: Tree, root: Path) -> Target:
    write_tree(tree, root)
    return automatic_target(detect_jetson(root), NvidiaDriver(), read_memory(root).total, TARGETS)


@pytest.mark.parametrize(
    ("tree", "name", "backend", "memory", "tensorrt"),
    [
        ("nano-jp46", "jetson-nano", "trtexec", 4, ["8.0.1"]),
        ("xavier-nx-jp5", "jetson-xavier-nx", "trtexec", 16, ["8.4"]),
        ("agx-orin-jp62-maxn", "jetson-agx-orin-64gb", "tensorrt", 64, ["10.3.0"]),
        ("orin-nano-super", "jetson-orin-nano-8gb", "tensorrt", 8, ["10.3.0"]),
        ("orin-nano-jp60", "jetson-orin-nano-8gb", "tensorrt", 8, ["8.6.2"]),
        ("thor-jp71", "jetson-thor-t5000", "tensorrt", 128, ["10.13.3"]),
    ],
)
def test_a_jetson_gets_its_target_and_the_software_of_its_jetpack(
    tree: str, name: str, backend: str, memory: int, tensorrt: list[str], tmp_path: Path
) -> None:
    target = target_of(TREES[tree], tmp_path)
    assert (target.name, target.backend, target.memory_gb) == (name, backend, memory)
    assert [range_.tensorrt[0] for range_ in target.software] == tensorrt
    assert [(mode.id, mode.name) for mode in target.power_modes] == list(TREES[tree].modes)


@pytest.mark.parametrize(
    ("tree", "tensorrt", "refused"),
    [
        ("agx-orin-jp62-maxn", "11.4.1", True),
        ("agx-orin-jp62-maxn", "10.3.0", False),
        ("thor-jp71", "11.4.1", False),  # another SoC: its JetPack says nothing of an Orin's
        ("orin-container", "11.4.1", False),  # shows no JetPack
    ],
)
def test_a_named_target_takes_only_the_software_of_the_board_it_is_built_on(
    tree: str, tensorrt: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(TREES[tree], tmp_path)
    board = detect_jetson(tmp_path)
    monkeypatch.setattr(automatic, "detect_jetson", lambda: board)
    target = resolve_target("jetson-agx-orin-64gb")
    request = Request(BuildConfig("fp16"), version=tensorrt)
    check_request(load_target("jetson-agx-orin-64gb"), request)
    if refused:
        with pytest.raises(ConfigError, match=rf"TensorRT {tensorrt} does not run.*JetPack 6\.1"):
            check_request(target, request)
    else:
        check_request(target, request)


def test_super_modes_bring_their_peaks(tmp_path: Path) -> None:
    assert target_of(TREES["orin-nano-super"], tmp_path / "s").int8_tops == 33.4
    assert target_of(TREES["orin-nano-jp60"], tmp_path / "o").int8_tops == 20.5


def test_in_a_container_every_software_of_the_module_is_possible(tmp_path: Path) -> None:
    target = target_of(TREES["orin-container"], tmp_path)
    assert target.name == "jetson-agx-orin-64gb"
    assert len(target.software) == 5


def test_an_orin_with_jetpack_5_has_no_bindings_for_this_python(tmp_path: Path) -> None:
    tree = replace(TREES["agx-orin-jp62-maxn"], release=TREES["xavier-nx-jp5"].release, debian={})
    target = target_of(tree, tmp_path)
    assert (target.backend, target.software[0].tensorrt) == ("trtexec", ("8.4", "8.5.2"))


def test_thors_are_told_apart_by_memory(tmp_path: Path) -> None:
    small = replace(TREES["thor-jp71"], memory_kb=64_000_000)
    assert target_of(small, tmp_path / "small").name == "jetson-thor-t4000"
    odd = replace(TREES["thor-jp71"], memory_kb=30_000_000)
    with pytest.raises(ConfigError, match="32 GB"):
        target_of(odd, tmp_path / "odd")


def test_an_unknown_module_is_refused_with_what_was_seen_and_a_way_on(tmp_path: Path) -> None:
    tree = Tree(
        compatible=("nvidia,p9999-0000+p3767-0099", "nvidia,tegra234"),
        model="NVIDIA Jetson Orin Pico", memory_kb=2_000_000,
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        target_of(tree, tmp_path)
    for seen in ("NVIDIA Jetson Orin Pico", "tegra234", "p3767-0099", "2 GB"):
        assert seen in caught.value.message
    assert "targets copy jetson-agx-orin-32gb mine" in (caught.value.hint or "")


def test_a_jetson_that_hides_its_device_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        target_of(Tree(release=TREES["thor-jp71"].release), tmp_path)


@pytest.mark.parametrize(
    ("name", "capability", "memory", "target"),
    [
        ("NVIDIA GeForce RTX 4090", "8.9", 25_393_692_672, "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "9.0", 84_987_740_160, "h100"),
        ("NVIDIA H200", "9.0", 150_000_000_000, "h200"),
        ("NVIDIA A100-SXM4-40GB", "8.0", 42_000_000_000, "a100-40gb"),
        ("Tesla T4", "7.5", 15_600_000_000, "t4"),
        ("NVIDIA GB10", "12.1", 128_000_000_000, "gb10"),
    ],
)
def test_a_listed_gpu_gets_its_target(name: str, capability: str, memory: int, target: str) -> None:
    driver = NvidiaDriver("13.0", (Gpu(name, capability, memory),))
    assert automatic_target(None, driver, 0, TARGETS).name == target


@pytest.mark.parametrize(
    ("name", "capability", "expected", "backend"),
    [
        ("NVIDIA GeForce RTX 3060", "8.6", "nvidia-geforce-rtx-3060", "tensorrt_rtx"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9", "nvidia-geforce-rtx-4090-laptop-gpu",
         "tensorrt_rtx"),
        ("NVIDIA A10G", "8.6", "nvidia-a10g", "tensorrt"),
        ("NVIDIA L40S", "8.9", "nvidia-l40s", "tensorrt"),
        ("NVIDIA GeForce RTX 2070", "7.5", "nvidia-geforce-rtx-2070", "tensorrt_rtx"),
    ],
)  # fmt: skip
def test_another_gpu_gets_a_target_without_peaks(
    name: str, capability: str, expected: str, backend: str
) -> None:
    gpu = Gpu(name, capability, 12 * GIB - 100_000_000)
    target = automatic_target(None, NvidiaDriver("12.6", (gpu,)), 0, TARGETS)
    assert (target.name, target.backend, target.memory_gb) == (expected, backend, 12)
    assert target.compute_capability == capability
    assert (target.bandwidth_gb_s, target.int8_tops, target.fp16_tflops) == (None, None, None)


def test_a_gpu_that_no_target_is_like_is_refused() -> None:
    old = NvidiaDriver("12.6", (Gpu("NVIDIA GeForce GTX 780", "3.5", 3 * GIB),))
    with pytest.raises(ConfigError, match=r"GTX 780.*3\.5") as caught:
        automatic_target(None, old, 0, TARGETS)
    assert "--target cpu" in (caught.value.hint or "")


def test_a_jetson_that_shows_only_its_gpu_is_asked_which_one_it_is() -> None:
    orin = NvidiaDriver("12.6", (Gpu("Orin", "8.7", 60 * GIB, integrated=True),))
    with pytest.raises(ConfigError, match=r"Orin.*8\.7") as caught:
        automatic_target(None, orin, 0, TARGETS)
    assert "--target with one of jetson-agx-orin-32gb" in (caught.value.hint or "")


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert automatic_target(None, NvidiaDriver(), 0, TARGETS).name == "cpu"
    with pytest.raises(ConfigError, match="cpu"):
        automatic_target(None, NvidiaDriver(), 0, [])
    monkeypatch.setattr(automatic, "automatic_target", lambda *_: TARGETS[0])
    assert resolve_target("auto") == TARGETS[0]


@pytest.mark.parametrize("target", [t for t in TARGETS if t.gpus], ids=lambda t: t.name)
def test_every_gpu_name_leads_to_its_own_target(target: Target) -> None:
    for name in target.gpus:
        gpu = Gpu(name, target.compute_capability, (target.memory_gb or 0) * GIB)
        assert automatic_target(None, NvidiaDriver("13.0", (gpu,)), 0, TARGETS) == target


@pytest.mark.parametrize("target", [t for t in TARGETS if t.soc], ids=lambda t: t.name)
def test_every_module_leads_to_its_own_target(target: Target, tmp_path: Path) -> None:
    for module in target.modules:
        part = module if "-" in module else f"{module}-0008"
        tree = Tree(
            compatible=(f"nvidia,{part}", f"nvidia,{target.soc}"),
            memory_kb=(target.memory_gb or 0) * 960_000,
        )
        assert target_of(tree, tmp_path / module) == target
