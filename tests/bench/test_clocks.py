"""The GPU's clock is watched while something is measured (nvidia-smi and the Jetson: emulated)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.bench import clocks
from resnet_edge.bench.clocks import GpuClocks, watch_clocks
from resnet_edge.cli.bench import _about_clocks, _about_copies
from resnet_edge.device.jetson import GpuClock
from tests.bench.test_stage import result

if TYPE_CHECKING:
    from pathlib import Path

IDLE, BUSY, CAPPED = (
    "345, 1980, 0x0000000000000001",
    "1980, 1980, 0x0000000000000000",
    "1755, 1980, 0x0000000000000004",
)
LIMITS = {"mhz": [1755, 1980], "limit_mhz": 1980, "held_back": ["power cap"]}
MACHINE = {"jetson": None, "gpu_clocks": GpuClocks(**LIMITS).to_json()}  # type: ignore[arg-type]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put an nvidia-smi on the path that says these lines, then waits to be ended."""

    def say(*lines: str) -> Path:
        program, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
        answers = "\n".join(f"echo '{line}'" for line in lines)
        program.write_text(f'#!/bin/sh\necho "$@" > {asked}\n{answers}\nexec sleep 60\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return asked

    return say


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.1)


def test_samples_of_a_busy_gpu_are_kept_and_what_held_it_back(smi: Any) -> None:
    asked = smi(IDLE, BUSY, CAPPED, CAPPED, "[N/A], [N/A], [N/A]", "17")
    with watch_clocks() as found:
        wait_for(asked)
    assert found.mhz == [1980, 1755, 1755]
    assert (found.limit_mhz, found.held_back) == (1980, ["power cap"])
    assert "--loop-ms=500" in asked.read_text()


@pytest.mark.parametrize(
    ("visible", "asked_for"), [(None, "0"), ("2,3", "2"), ("GPU-1f", "GPU-1f")]
)
def test_the_gpu_that_cuda_calls_the_first_is_watched(
    smi: Any, monkeypatch: pytest.MonkeyPatch, visible: str | None, asked_for: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    asked = smi(BUSY)
    with watch_clocks():
        wait_for(asked)
    assert f"--id={asked_for} " in asked.read_text()


def test_an_error_inside_ends_the_watch(smi: Any) -> None:
    asked = smi(BUSY)

    def fail() -> None:
        wait_for(asked)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watch_clocks() as found:
        fail()
    assert found.mhz == [1980]


def test_a_jetson_is_asked_for_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        clocks, "gpu_clock", lambda: GpuClock(306_000_000, 918_000_000, 612_000_000)
    )
    monkeypatch.setattr(clocks, "_INTERVAL", 0.01)
    with watch_clocks() as found:
        while len(found.mhz) < 3:
            time.sleep(0.01)
    assert set(found.mhz) == {612}
    assert found.limit_mhz == 918


def test_without_a_gpu_nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with watch_clocks() as found:
        pass
    assert found.to_json() is None


def test_the_notes_say_what_the_clock_did() -> None:
    assert _about_clocks(MACHINE) == [
        "GPU clock 1755 to 1980 MHz of 1980 at most, 2 samples",
        "the GPU was held back: power cap",
    ]
    board = {"model": "", "jetpack": "6.2", "power_mode": "15W", "clocks_locked": False}
    first, second = _about_clocks({"jetson": board, "gpu_clocks": None})
    assert first == "power mode 15W"
    assert "jetson_clocks" in second
    assert _about_clocks({"jetson": None, "gpu_clocks": None}) == []


def test_copies_that_take_longer_than_the_network_are_named() -> None:
    from dataclasses import replace

    whole = result([3.0, 3.0, 3.0])
    waiting = replace(whole, parts_ms={"h2d": (2.0,), "compute": (0.9,), "d2h": (0.1,)})
    (note,) = _about_copies([whole, waiting])
    assert "2.00 ms" in note
    assert "--input uint8" in note
    assert _about_copies([replace(whole, parts_ms={"h2d": (0.1,), "compute": (0.9,)})]) == []
