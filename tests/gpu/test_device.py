"""What is said about this machine's GPU is what its own software says."""

from __future__ import annotations

import subprocess

import pytest

from resnet_edge.catalog.automatic import resolve_target
from resnet_edge.catalog.targets import list_targets
from resnet_edge.device.machine import describe
from resnet_edge.device.nvidia import query_driver
from resnet_edge.device.versions import parts
from resnet_edge.doctor.examined import look
from resnet_edge.doctor.report import examine
from tests.conftest import require

pytestmark = pytest.mark.gpu

DRIVER = query_driver()


@pytest.fixture(autouse=True)
def _gpu() -> None:
    require("gpu", available=bool(DRIVER.gpus))


def test_pytorch_sees_the_same_gpu() -> None:
    torch = require("torch")
    require("torch", available=torch.cuda.is_available())
    properties = torch.cuda.get_device_properties(0)
    gpu = DRIVER.gpus[0]
    assert gpu.name == properties.name
    assert gpu.compute_capability == f"{properties.major}.{properties.minor}"
    assert gpu.memory_bytes == properties.total_memory
    assert gpu.integrated == bool(properties.is_integrated)


def test_nvidia_smi_names_the_same_gpu() -> None:
    try:
        run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nvidia-smi is not available on this machine")
    assert DRIVER.gpus[0].name in run.stdout


def test_the_automatic_target_is_of_this_gpu() -> None:
    target = resolve_target("auto")
    assert target.compute_capability == DRIVER.gpus[0].compute_capability
    assert target.memory_gb == pytest.approx(DRIVER.gpus[0].memory_bytes / 2**30, rel=0.15)


def test_doctor_finds_a_driver_that_serves_the_installed_runtime() -> None:
    report = examine(look(), list_targets())
    checks = {check.name: check for check in report.board}
    assert checks["CUDA driver"].status == "ok", checks["CUDA driver"]
    assert checks["target"].status == "ok", checks["target"]
    assert parts(report.machine.driver.cuda or "") >= (11,)


def test_onnxruntime_computes_on_the_gpu_where_doctor_says_so() -> None:
    package = describe().packages.get("onnxruntime")
    require("onnxruntime-cuda", available=bool(package and package.details.get("cuda_works")))
    import numpy as np

    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
    from tests.conftest import onnx_model

    model = onnx_model("g (float[2] x) => (float[2] y) { y = Add (x, x) }")
    with OnnxRuntimeSession(model, gpu=True) as session:
        result = session.run({"x": np.array([1, 2], np.float32)})
    assert result["y"].tolist() == [2, 4]
