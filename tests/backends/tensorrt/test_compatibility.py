"""An engine that does not fit this machine is known before anything reads it."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

import pytest

from resnet_edge.backends.tensorrt.compatibility import mismatch
from resnet_edge.bundle.sidecar import Sidecar
from resnet_edge.device.nvidia import Gpu

ORIN = Gpu("Orin", "8.7", 64 << 30, integrated=True)
ENGINE = Sidecar(
    backend="tensorrt",
    runtime_version="10.3.0",
    target="jetson-agx-orin-64gb",
    compute_capabilities=("8.7",),
    device="Orin",
    system=f"{platform.system()} {platform.machine()}",
    precision="fp16",
    rest="fp16",
    onnx="model.onnx",
    onnx_sha256="",
    engine_sha256="",
    profile=(1, 8, 32),
    settings={},
    inputs=(),
    outputs=(),
    warnings=(),
    notes=(),
)


def test_an_engine_runs_where_it_was_built() -> None:
    assert mismatch(ENGINE, "10.3.0", ORIN) is None


def test_an_engine_of_another_system_is_refused_unless_rtx_built_it() -> None:
    engine = replace(ENGINE, system="Linux riscv64")
    assert "riscv64" in str(mismatch(engine, "10.3.0", ORIN))
    assert mismatch(replace(engine, backend="tensorrt_rtx"), "10.3.0", ORIN) is None


def test_a_gpu_that_is_not_known_is_no_reason_but_the_version_is() -> None:
    assert mismatch(ENGINE, "10.3.0", None) is None
    assert "10.7.0" in str(mismatch(ENGINE, "10.7.0", None))


@pytest.mark.parametrize("version", ["10.3.1", "8.6.2", "11.4.0"])
def test_another_version_is_named(version: str) -> None:
    assert version in str(mismatch(ENGINE, version, ORIN))
    assert "10.3.0" in str(mismatch(ENGINE, version, ORIN))


@pytest.mark.parametrize(
    ("built_with", "version", "runs"),
    [
        ("10.3.0", "10.13.3", True),
        ("10.3.0", "10.10", True),
        ("10.3.0", "11.4.1", True),
        ("10.3.0", "8.6.2", False),
        ("8.6.1", "8.6.2", True),
        ("8.6.1", "10.3.0", True),
        ("8.6.1", "11.4.1", False),  # one generation further, not two
    ],
)
def test_a_version_compatible_engine_runs_with_later_versions(
    built_with: str, version: str, runs: bool
) -> None:
    engine = replace(ENGINE, runtime_version=built_with, settings={"version_compatible": True})
    assert (mismatch(engine, version, ORIN) is None) == runs


@pytest.mark.parametrize(
    ("capability", "settings", "runs"),
    [
        ("8.6", {}, False),
        ("8.6", {"hardware_compatible": True}, True),
        ("7.5", {"hardware_compatible": True}, False),
        ("11.0", {"hardware_compatible": True}, True),
    ],
)
def test_another_gpu_needs_a_hardware_compatible_engine(
    capability: str, settings: dict[str, Any], runs: bool
) -> None:
    gpu = Gpu("some GPU", capability, 8 << 30)
    found = mismatch(replace(ENGINE, settings=settings), "10.3.0", gpu)
    assert (found is None) == runs
    if found is not None:
        assert "8.7" in found
        assert capability in found


def test_one_of_several_compute_capabilities_is_enough() -> None:
    engine = replace(ENGINE, compute_capabilities=("8.6", "8.7"))
    assert mismatch(engine, "10.3.0", ORIN) is None
