"""Whether CUDA can be used is known before anything that needs it is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_edge.backends.cuda.device import LIBRARIES
from tests.emulation.device import run_on_device


def status() -> dict[str, Any]:
    from dataclasses import asdict

    from resnet_edge.backends.cuda.status import cuda_status

    found = cuda_status()
    return {**asdict(found), "usable": found.usable}


def test_a_machine_with_gpus() -> None:
    found = run_on_device("", status, devices=2, driver_version=12060, rt_version=12060)
    assert found == {
        "devices": 2,
        "driver_version": "12.6",
        "runtime_version": "12.6",
        "error": None,
        "detail": "2 GPUs, driver for CUDA 12.6",
        "hint": None,
        "usable": True,
    }


def test_a_driver_older_than_the_runtime_is_error_35() -> None:
    found = run_on_device("", status, driver_version=12060, rt_version=13000)
    assert not found["usable"]
    assert found["error"] == 35
    assert "cudaErrorInsufficientDriver" in found["detail"]
    assert "13.0" in found["detail"]
    assert "12.6" in found["detail"]
    assert "update the NVIDIA driver" in found["hint"]


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (100, "CUDA_ERROR_NO_DEVICE", "nvidia-smi"),
        (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart"),
        (999, "CUDA_ERROR_UNKNOWN", "NVIDIA driver"),
    ],
)
def test_a_driver_that_does_not_start_says_why(code: int, name: str, advice: str) -> None:
    found = run_on_device("", status, init_error=code, driver_version=12060)
    assert (found["usable"], found["devices"], found["error"]) == (False, 0, code)
    assert f"CUDA error {code} ({name})" in found["detail"]
    assert advice in found["hint"]


def test_a_driver_without_gpus_says_so() -> None:
    found = run_on_device("", status, devices=0)
    assert not found["usable"]
    assert found["error"] == 100


def test_without_a_driver_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_edge.backends.cuda import libcuda
    from resnet_edge.backends.cuda.status import cuda_status

    def load() -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(libcuda, "load", load)
    found = cuda_status()
    assert (found.usable, found.devices, found.driver_version, found.error) == (
        False,
        0,
        None,
        None,
    )
    assert "libcuda.so.1" in found.detail
    assert "install the NVIDIA driver" in (found.hint or "")


@pytest.mark.parametrize("library", ["", *LIBRARIES])
def test_no_device_is_opened_where_cuda_cannot_be_used(library: str) -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import BackendUnavailableError

        try:
            open_device()
        except BackendUnavailableError as error:
            return [error.message, error.hint]
        return []

    message, hint = run_on_device(library, work, driver_version=12060)
    assert "CUDA error 35" in message
    assert "update the NVIDIA driver" in hint


def test_without_a_library_the_way_out_is_named() -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device, probe
        from resnet_edge.errors import BackendUnavailableError

        try:
            open_device()
        except BackendUnavailableError as error:
            return [error.message, error.hint, probe().available, probe().detail]
        return []

    message, hint, available, detail = run_on_device("", work)
    for library in LIBRARIES:
        assert library in message
    assert "pip install cuda-python" in hint
    assert not available
    assert message in detail


def test_pycuda_goes_first_where_both_are_there() -> None:
    def work() -> list[Any]:
        from resnet_edge.backends.cuda.device import open_device, probe

        with open_device() as first, open_device(library="cuda-python") as second:
            return [first.library, second.library, probe().detail]

    first, second, probed = run_on_device("cuda-python,pycuda", work)
    assert first == probed
    assert first.startswith("pycuda ")
    assert second.startswith("cuda-python ")
