"""Each fault is found, named, and comes with the command that mends it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.catalog.targets import list_targets
from resnet_edge.device.installs import Bindings
from resnet_edge.device.jetson import PowerMode
from resnet_edge.device.memory import Memory
from resnet_edge.device.nvidia import Gpu, NvidiaDriver, Runtime
from resnet_edge.device.packages import Package
from resnet_edge.doctor.report import Report, examine
from resnet_edge.errors import BackendUnavailableError
from tests.doctor.machines import BARE, DIST, H100, ORIN, RTX, XAVIER

if TYPE_CHECKING:
    from resnet_edge.doctor.checks import Check
    from resnet_edge.doctor.examined import Examined

TARGETS = list_targets()
GB = 10**9

BROKEN = replace(
    ORIN, trtexec=BackendUnavailableError("x: libnvinfer.so.10 is missing", hint="sudo")
)


def report_of(machine: Examined) -> Report:
    return examine(machine, TARGETS)


def check_of(machine: Examined, group: str, name: str) -> Check:
    report = report_of(machine)
    checks = report.board if group == "machine" else report.backends[group]
    return next(check for check in checks if check.name == name)


def with_package(machine: Examined, **packages: Package | None) -> Examined:
    """Replace packages, or remove those that are None; ``cuda_bindings`` is ``cuda.bindings``."""
    named = {name.replace("cuda_bindings", "cuda.bindings"): p for name, p in packages.items()}
    return replace(
        machine,
        packages={k: v for k, v in {**machine.packages, **named}.items() if v is not None},
    )


def on_jetson(machine: Examined, **changes: Any) -> Examined:
    assert machine.jetson is not None
    return replace(machine, jetson=replace(machine.jetson, **changes))


USABLE = [
    (ORIN, {"pytorch", "onnxruntime", "tensorrt", "trtexec"}),
    (XAVIER, {"trtexec"}),
    (RTX, {"tensorrt_rtx"}),
    (H100, {"pytorch", "tensorrt_rtx"}),
    (BARE, set()),
]


@pytest.mark.parametrize(("machine", "backends"), USABLE)
def test_what_can_be_used_is_told(machine: Examined, backends: set[str]) -> None:
    report = report_of(machine)
    assert {name for name in report.backends if report.usable(name)} == backends


def test_a_healthy_orin_has_nothing_to_mend_but_rtx() -> None:
    report = report_of(ORIN)
    faults = [c for c in report.board if c.status != "ok"]
    faults += [c for n, cs in report.backends.items() for c in cs if c.status != "ok"]
    assert [c.found for c in faults] == ["there is no TensorRT-RTX for Jetson"]


FAULTS = [
    # machine, group, check, status, what is said, what mends it
    # -- the machine
    (on_jetson(ORIN, power_mode=PowerMode(1, "MODE_15W")), "machine", "power mode", "warn",
     "MODE_15W; the fastest is MAXN", "sudo nvpmodel -m 0"),
    (XAVIER, "machine", "power mode", "warn", "MODE_20W_6CORE", "nvpmodel -m 8"),
    (on_jetson(ORIN, power_mode=None), "machine", "power mode", "warn", "cannot", "nvpmodel -q"),
    (XAVIER, "machine", "clocks", "warn", "between 115 and 1109 MHz", "sudo jetson_clocks"),
    (on_jetson(ORIN, clock=None), "machine", "clocks", "warn", "cannot be read", "--show"),
    (XAVIER, "machine", "memory", "warn", "swap 0.0", "mkswap"),
    (replace(RTX, memory=Memory(8 * GB, GB, 0)), "machine", "memory", "warn", "1.0 of 8.0",
     "desktop"),
    (replace(RTX, disk_free=GB), "machine", "disk", "warn", "1.0 GB", "another disk"),
    (on_jetson(ORIN, jetpack=None, l4t=None), "machine", "device", "warn", "JetPack unknown",
     "nv_tegra_release"),
    (on_jetson(ORIN, modules=("p1-1",)), "machine", "target", "fail", "no target", "targets copy"),
    (replace(ORIN, driver=NvidiaDriver(error="none here")), "machine", "CUDA driver", "fail",
     "none here", "--runtime nvidia"),
    (replace(RTX, driver=NvidiaDriver("13.0", (), "CUDA driver error 100: no GPU is visible")),
     "machine", "CUDA driver", "fail", "error 100", "--gpus all"),
    (replace(RTX, driver=replace(RTX.driver, cuda="12.4"), runtime=Runtime("x", "13.0", 35)),
     "machine", "CUDA driver", "fail", "CUDA error 35", "sudo ubuntu-drivers install"),
    (replace(RTX, runtime=Runtime("x", "13.0", 46)), "machine", "CUDA driver", "fail",
     "CUDA error 46", "nvidia-smi"),
    (replace(BARE, runtime=Runtime("x", "13.0", 35)), "machine", "CUDA driver", "n.a.",
     "error 35", ""),
    # -- PyTorch
    (BARE, "pytorch", "package", "fail", "not installed", "resnet-edge[export]"),
    (with_package(RTX, torch=Package("2.13.0+cpu", details={"cuda": None, "gpus": []})),
     "pytorch", "package", "warn", "without CUDA", "--force-reinstall torch"),
    (with_package(ORIN, torch=Package("2.8.0", details={"cuda": None, "gpus": []})),
     "pytorch", "package", "warn", "without CUDA", "jetson-ai-lab"),
    (with_package(RTX, torch=Package("2.13.0", details={"cuda": "13.0", "gpus": []})),
     "pytorch", "package", "warn", "cannot use the GPU", "torch.cuda.init"),
    (with_package(RTX, torch=Package(error="libcudnn.so.9: no such file")), "pytorch", "package",
     "fail", "libcudnn", "--force-reinstall"),
    # -- ONNX Runtime
    (with_package(RTX, onnxruntime=Package("1.32.0", details={"providers": ["CPU"]})),
     "onnxruntime", "CUDA provider", "n.a.", "not in this build", ""),
    (with_package(RTX, onnxruntime=Package("1.32.0", details={
        "providers": ["CUDAExecutionProvider"], "cuda_works": False})),
     "onnxruntime", "CUDA provider", "warn", "cannot start", "[cuda,cudnn]"),
    (BARE, "onnxruntime", "package", "fail", "not installed", "resnet-edge[cpu]"),
    # -- TensorRT
    (replace(with_package(ORIN, tensorrt=None), bindings=(Bindings(DIST, "3.10", visible=False),)),
     "tensorrt", "package", "fail", "out of sight", "--system-site-packages"),
    (replace(with_package(ORIN, tensorrt=None), in_venv=False,
             bindings=(Bindings(DIST, "3.10", visible=False),)),
     "tensorrt", "package", "fail", "out of sight", "system's python3"),
    (replace(with_package(ORIN, tensorrt=None), python="3.12.3",
             bindings=(Bindings(DIST, "3.10", visible=False),)),
     "tensorrt", "package", "fail", "is for Python 3.10, this is 3.12", "python3.10 -m venv"),
    (replace(XAVIER, bindings=(Bindings(DIST, "3.8", visible=False),)), "tensorrt", "package",
     "fail", "is for Python 3.8, this is 3.10", 'use backend = "trtexec"'),
    (replace(with_package(ORIN, tensorrt=None), bindings=()), "tensorrt", "package", "fail",
     "not installed", "python3-libnvinfer"),
    (XAVIER, "tensorrt", "package", "fail", "Python 3.6 or 3.8", "trtexec"),
    (RTX, "tensorrt", "package", "fail", "not installed", "tensorrt-cu13"),
    (H100, "tensorrt", "package", "fail", "not installed", "tensorrt-cu12"),
    (replace(RTX, driver=replace(RTX.driver, cuda="12.4"), runtime=Runtime("x", "13.0", 35)),
     "tensorrt_rtx", "CUDA driver", "warn", "CUDA error 35", "CUDA 13.0 or newer, then reboot"),
    (with_package(RTX, tensorrt=Package(error="libnvinfer.so.10: cannot open")), "tensorrt",
     "package", "fail", "libnvinfer.so.10", "--force-reinstall"),
    (with_package(ORIN, tensorrt=Package(error="libnvinfer.so.10: cannot open")), "tensorrt",
     "package", "fail", "libnvinfer.so.10", "apt install tensorrt"),
    (with_package(ORIN, tensorrt=Package("10.3.0", "/venv/tensorrt/__init__.py")), "tensorrt",
     "installations", "warn", DIST, "pip uninstall"),
    (with_package(ORIN, tensorrt=Package("11.4.0.106", f"{DIST}/__init__.py")), "tensorrt",
     "JetPack", "fail", "JetPack 6.1 to 6.2.2: 10.3.0 to 10.7.0 do", "pip uninstall"),
    (with_package(ORIN, tensorrt=Package("10.16.1.11", f"{DIST}/__init__.py")), "tensorrt",
     "JetPack", "fail", "TensorRT 10.16.1.11 does not run", "pip uninstall"),
    (on_jetson(with_package(ORIN, tensorrt=Package("11.4.1", DIST)), jetpack="7.2.1"), "tensorrt",
     "JetPack", "fail", "JetPack 7.2: 10.16 do", "python3-libnvinfer"),
    (on_jetson(with_package(ORIN, tensorrt=Package("8.5.2.2", DIST)), jetpack="5.1.2"),
     "tensorrt", "numpy", "fail", "np.bool", "trtexec"),
    (with_package(ORIN, pycuda=None), "tensorrt", "device memory", "fail", "neither",
     "PATH=/usr/local/cuda/bin:$PATH pip install pycuda"),
    (replace(with_package(ORIN, pycuda=None), nvcc=None), "tensorrt", "device memory", "fail",
     "neither", "no nvcc"),
    (with_package(ORIN, pycuda=Package(error="libcurand.so.10: no")), "tensorrt", "device memory",
     "fail", "libcurand", "cuda-python==12.*"),
    (replace(ORIN, driver=replace(ORIN.driver, cuda="12.2"), runtime=Runtime("x", "13.0", 35)),
     "tensorrt", "CUDA driver", "fail", "CUDA error 35", "pip install 'cuda-python==12.*'"),
    (replace(ORIN, jetson=None, driver=NvidiaDriver(error="no NVIDIA driver")), "tensorrt",
     "CUDA driver", "fail", "no NVIDIA driver", "with an NVIDIA GPU"),
    # -- TensorRT-RTX
    (H100, "tensorrt_rtx", "running", "warn", "SM 9.0", "use TensorRT"),
    (with_package(RTX, cuda_bindings=None), "tensorrt_rtx", "device memory", "warn", "neither",
     "cuda-python==13.*"),
    (BARE, "tensorrt_rtx", "package", "fail", "not installed", "resnet-edge[rtx]"),
    # -- trtexec
    (replace(ORIN, trtexec=None), "trtexec", "program", "fail", "not found", "libnvinfer-bin"),
    (BARE, "trtexec", "program", "fail", "not found", "wheels have none"),
    (BROKEN,
     "trtexec", "program", "fail", "libnvinfer.so.10 is missing", "sudo"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "group", "name", "status", "found", "fix"),
    FAULTS,
    ids=[f"{group}-{name}-{found}" for _, group, name, _, found, _ in FAULTS],
)
def test_a_fault_is_found_and_mended(
    machine: Examined, group: str, name: str, status: str, found: str, fix: str
) -> None:
    check = check_of(machine, group, name)
    assert (check.status, bool(check.fix)) == (status, status != "n.a.")
    assert found in check.found
    assert fix in check.fix
    assert "\n" not in check.found
    if group != "machine":
        assert report_of(machine).usable(group) == (status != "fail")


def test_pycuda_is_used_before_cuda_python() -> None:
    both = with_package(ORIN, cuda_bindings=Package("12.9.1"))
    assert check_of(both, "tensorrt", "device memory").found == "pycuda 2026.1"
    other = with_package(both, pycuda=Package(error="broken"))
    assert check_of(other, "tensorrt", "device memory").found == "cuda-python 12.9.1"


def test_tensorrt_11_4_1_goes_with_jetpack_7_2_2() -> None:
    machine = on_jetson(with_package(ORIN, tensorrt=Package("11.4.1", DIST)), jetpack="7.2.2")
    assert check_of(machine, "tensorrt", "JetPack").status == "ok"


def test_a_module_without_a_target_is_no_fault_of_its_tensorrt() -> None:
    report = report_of(on_jetson(ORIN, modules=("p1-1",)))
    assert report.usable("tensorrt")
    assert [check.name for check in report.board if check.status == "fail"] == ["target"]


def test_a_desktop_has_no_power_mode_and_an_unlisted_gpu_has_a_target() -> None:
    gpu = Gpu("NVIDIA GeForce RTX 3060", "8.6", 12 * GB)
    machine = replace(RTX, driver=NvidiaDriver("13.0", (gpu,)))
    assert check_of(machine, "machine", "power mode").status == "n.a."
    assert check_of(machine, "machine", "clocks").status == "n.a."
    assert "nvidia-geforce-rtx-3060" in check_of(machine, "machine", "target").found


@pytest.mark.parametrize(
    ("machine", "trtexec"),
    [
        (ORIN, {"path": "/usr/src/tensorrt/bin/trtexec", "version": "10.3.0"}),
        (BROKEN, {"error": "x: libnvinfer.so.10 is missing"}),
        (BARE, None),
    ],
)
def test_the_report_says_which_trtexec(machine: Examined, trtexec: dict[str, str] | None) -> None:
    assert report_of(machine).to_json()["machine"]["trtexec"] == trtexec


@pytest.mark.parametrize("machine", [ORIN, XAVIER, RTX, H100, BARE, BROKEN])
def test_the_report_is_json(machine: Examined) -> None:
    value = json.loads(json.dumps(report_of(machine).to_json()))
    assert set(value) == {"machine", "board", "backends"}
    for backend in value["backends"].values():
        assert set(backend) == {"usable", "checks"}
        for check in backend["checks"]:
            assert set(check) == {"name", "status", "found", "fix"}
            assert check["status"] in ("ok", "warn", "fail", "n.a.")
            assert (check["status"] in ("warn", "fail")) == bool(check["fix"])
