"""What cannot work is refused before anything is built, with what can be done instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from resnet_edge.backends.config import BuildConfig
from resnet_edge.build.request import RTX_CAPABILITIES, Request, check_request
from resnet_edge.catalog.targets import Target, list_targets, load_target
from resnet_edge.errors import ConfigError
from tests.conftest import require


def asked(
    precision: Any, *, raw_pixels: bool = False, version: str | None = None, **fields: Any
) -> Callable[[], Request]:
    """Ask when called, since a description may refuse itself."""
    return lambda: Request(BuildConfig(precision, **fields), raw_pixels, version)


ONE = (1, 1, 1)

REFUSED = [
    # target, request, what the message names, what the hint offers
    ("jetson-nano", asked("int8"), "5.3", "--fp16"),
    ("jetson-tx2", asked("int8"), "6.2", "--fp16"),
    ("jetson-thor-t5000", asked("fp16", profile=ONE, dla=0), "no DLA", "--dla"),
    ("jetson-orin-nano-8gb", asked("int8", profile=ONE, dla=0), "no DLA", "--dla"),
    ("jetson-orin-nano-4gb", asked("fp16", profile=ONE, dla=0), "no DLA", "--dla"),
    ("rtx-4090", asked("fp16", profile=ONE, dla=0), "no DLA", "GPU"),
    ("h100", asked("fp16", profile=ONE, dla=0), "no DLA", "GPU"),
    ("cpu", asked("int8", profile=ONE, dla=0), "no DLA", "Jetson"),
    ("jetson-orin-nx-8gb", asked("fp16", profile=ONE, dla=1), "core 1", "pass --dla 0"),
    ("jetson-agx-xavier", asked("fp16", profile=ONE, dla=2), "core 2", "--dla 0 or 1"),
    (
        "jetson-agx-orin-64gb", asked("fp16", profile=ONE, dla=0, version="10.16.2.10"),
        "cannot use the DLA", "7.2.2",
    ),
    (
        "jetson-orin-nx-16gb", asked("fp16", profile=ONE, dla=0, version="10.16.2"),
        "cannot use the DLA", "JetPack 4.6",
    ),
    ("jetson-agx-xavier", asked("fp32", profile=ONE, dla=0), "FP16 and INT8", "--fp16"),
    ("jetson-agx-xavier", asked("fp16", dla=0), "fixed batch", "--profile 8"),
    (
        "jetson-agx-orin-64gb",
        asked("int8", profile=ONE, dla=0, implicit="ranges", version="11.4.1"),
        "INT8 on the DLA", "--fp16 --dla",
    ),
    ("jetson-orin-nano-8gb", asked("int8", version="11.4.1"), "JetPack 5.1.1 to 7.2", "software"),
    ("jetson-agx-orin-32gb", asked("fp16", version="11.3.0"), "11.3.0", "JetPack"),
    ("jetson-thor-t5000", asked("fp16", version="10.3.0"), "10.3.0", "JetPack"),
    ("h100", asked("fp16", version="8.4.3"), "11.x do", "use one of those"),
    ("rtx-5090", asked("fp8"), "fp8", "--int8"),
    ("jetson-thor-t5000", asked("bf16"), "bf16", "--fp16"),
    ("rtx-4090", asked("int8", rest="bf16"), "bf16", "--fp16"),
    ("rtx-2080-ti", asked("int8"), "Turing", "--fp16"),
    ("rtx-4090", asked("int8", implicit="ranges"), "calibrator", "--implicit"),
    (
        "rtx-4090", asked("int8", compute_capabilities=("7.5", "8.9")), "Turing", "--fp16",
    ),
    ("rtx-4090", asked("fp16", compute_capabilities=("8.9", "9.0")), "'9.0'", "12.0"),
    ("rtx-4090", asked("fp16", compute_capabilities=("8.9", "")), "''", "8.9"),
    ("rtx-4090", asked("fp16", compute_capabilities=("8.9", "8.9")), "twice", "once"),
    ("rtx-4090", asked("fp16", compute_capabilities=("8.6",)), "8.9", "the target of"),
    ("t4", asked("int8", implicit="ranges", version="11.4.0.106"), "implicit", "--implicit"),
    ("cpu", asked("int8", implicit="ranges"), "implicit", "Jetson"),
    ("t4", asked("fp16", implicit="ranges"), "INT8", "--int8"),
    ("cpu", asked("fp16"), "FP16", "--int8"),
    ("jetson-nano", asked("fp16", raw_pixels=True, version="8.2.1"), "uint8", "--input float"),
    (
        "jetson-xavier-nx", asked("int8", raw_pixels=True, version="8.4.1"),
        "uint8", "--input float",
    ),
    ("t4", asked("fp16", hardware_compatible=True), "Ampere", "--hardware-compatible"),
    (
        "jetson-agx-xavier", asked("int8", hardware_compatible=True, version="8.5.2"),
        "7.2", "--hardware-compatible",
    ),
]  # fmt: skip

ALLOWED = [
    ("jetson-nano", asked("fp16", version="8.2.1.8")),
    ("jetson-xavier-nx", asked("int8", version="8.5.2")),
    ("jetson-xavier-nx", asked("int8", raw_pixels=True, version="8.5.2")),
    ("a10", asked("fp16", hardware_compatible=True, version="8.6.1")),
    ("jetson-agx-xavier", asked("int8", profile=ONE, dla=1, version="8.5.2")),
    ("jetson-agx-orin-64gb", asked("int8", profile=ONE, dla=1, version="10.3.0.30")),
    ("jetson-agx-orin-64gb", asked("int8", profile=ONE, dla=0, version="10.7.0")),
    ("jetson-agx-orin-64gb", asked("fp16", profile=ONE, dla=0, version="11.4.1")),
    ("jetson-agx-orin-64gb", asked("int8", version="11.5.0")),
    ("jetson-thor-t5000", asked("int8", version="10.13.3.9")),
    ("h100", asked("int8", version="11.4.0.106")),
    ("t4", asked("int8", implicit="ranges", version="10.16.1.11")),
    ("rtx-4090", asked("int8", version="1.7.1.116")),
    ("cpu", asked("int8", version="1.32.0")),
]


@pytest.mark.parametrize(("target", "request_", "message", "hint"), REFUSED)
def test_what_cannot_work_is_refused(
    target: str, request_: Callable[[], Request], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_request(load_target(target), request_())
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("target", "request_"), ALLOWED)
def test_what_works_is_not_refused(target: str, request_: Callable[[], Request]) -> None:
    check_request(load_target(target), request_())


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_every_gpu_builds_fp16_and_refuses_rtx_unless_it_is_listed(target: Target) -> None:
    if not target.compute_capability:
        return
    check_request(target, asked("fp16")())
    rtx = replace(target, backend="tensorrt_rtx")
    if target.compute_capability in RTX_CAPABILITIES:
        check_request(rtx, asked("fp16")())
        return
    with pytest.raises(ConfigError, match=r"RTX does not support") as caught:
        check_request(rtx, asked("fp16")())
    assert target.compute_capability in caught.value.message
    assert "tensorrt" in (caught.value.hint or "")


def test_the_list_of_rtx_capabilities_is_that_of_the_library() -> None:
    trt = require("tensorrt_rtx")
    known = {name for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert known == {"SM" + capability.replace(".", "") for capability in RTX_CAPABILITIES}


def test_a_target_that_says_nothing_about_software_takes_any_version() -> None:
    target = Target("mine", "", "tensorrt", "8.7", dla_cores=2, soc="tegra234", modules=("p1",))
    check_request(target, asked("fp16", profile=ONE, dla=1, version="99.0")())
