"""Whether CUDA can be used is known before anything that needs it is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_edge.backends.cuda.device import LIBRARIES
from tests.emulation.device import run_on_device


def status() -> list[Any]:
    from resnet_edge.backends.cuda.status import cuda_status

    found = cuda_status()
    return [found.usable, found.devices, found.detail, found.hint]


def test_a_machine_with_gpus() -> None:
    found = run_on_device("", status, devices=2, driver_version=12060, rt_version=12060)
    assert found == [True, 2, "2 GPUs, driver for CUDA 12.6", None]


def test_a_driver_older_than_the_runtime_is_error_35() -> None:
    usable, devices, detail, hint = run_on_device(
        "", status, driver_version=12060, rt_version=13000
    )
    assert (usable, devices) == (False, 0)
    assert "CUDA error 35" in detail
    assert "CUDA 13.0" in detail
    assert "CUDA 12.6" in detail
    assert "update the NVIDIA driver" in hint


@pytest.mark.parametrize("code", [100, 803, 999])
def test_a_driver_that_does_not_start_says_why(code: int) -> None:
    usable, devices, detail, hint = run_on_device("", status, init_error=code, driver_version=12060)
    assert (usable, devices) == (False, 0)
    assert f"error {code}" in detail
    assert "nvidia-smi" in hint


def test_a_driver_without_gpus_says_so() -> None:
    usable, _, detail, hint = run_on_device("", status, devices=0)
    assert not usable
    assert "no GPU is visible" in detail
    assert "--gpus all" in hint


def test_without_a_driver_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_edge.backends.cuda import status as module
    from resnet_edge.device.nvidia import query_driver

    monkeypatch.setattr(module, "query_driver", lambda: query_driver("libnothing.so.1"))
    found = module.cuda_status()
    assert (found.usable, found.devices) == (False, 0)
    assert "no NVIDIA driver" in found.detail
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
