"""The emulated driver under the real pycuda."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from tests.conftest import require
from tests.emulation.build import MissingError, cuda_libraries, pycuda
from tests.emulation.device import run_on_device


def _symbols(library: Any, *options: str) -> set[str]:
    require("nm", available=_has_nm(), reason="install binutils")
    listed = subprocess.run(
        ["nm", "--dynamic", *options, str(library)], capture_output=True, text=True, check=True
    )
    return set(re.findall(r" [UT] (cu\w+)$", listed.stdout, re.MULTILINE))


def _has_nm() -> bool:
    try:
        return subprocess.run(["nm", "--version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_every_symbol_that_pycuda_binds_is_there() -> None:
    try:
        (driver,) = pycuda()[0].glob("pycuda/_driver*.so")
        emulated = cuda_libraries() / "libcuda.so.1"
    except MissingError as error:
        require("pycuda", available=False, reason=str(error))
    bound = _symbols(driver, "--undefined-only")
    assert len(bound) > 140
    assert bound <= _symbols(emulated, "--defined-only")


def test_what_is_not_emulated_says_so() -> None:
    def work() -> str:
        import pycuda.driver as cuda
        import pytest

        from resnet_edge.backends.cuda.device import open_device

        with open_device() as device, device.activate():
            with pytest.raises(cuda.LogicError) as caught:
                cuda.mem_alloc_pitch(64, 64, 4)
            return str(caught.value)

    assert "NOT_SUPPORTED" in run_on_device("pycuda", work)


def test_a_second_failure_needs_a_second_order() -> None:
    """The order counts calls: the first passes, two fail, the rest pass."""

    def work() -> list[bool]:
        import pytest

        from resnet_edge.backends.cuda.device import open_device
        from resnet_edge.errors import DeviceError
        from tests.emulation import control

        failed = []
        with open_device() as device:
            control.fail("cuEventCreate", control.OUT_OF_MEMORY, call=2, times=2)
            for expected in (False, True, True, False):
                if expected:
                    with pytest.raises(DeviceError):
                        device.event()
                else:
                    device.event()
                failed.append(expected)
        return failed

    assert len(run_on_device("cuda-python", work)) == 4


def test_what_is_left_behind_is_counted() -> None:
    """The counters that the leak tests stand on see a leak."""

    def work() -> list[Any]:
        import ctypes

        from tests.emulation import control

        driver = ctypes.CDLL("libcuda.so.1")
        context, address = ctypes.c_void_p(), ctypes.c_void_p()
        driver.cuInit(0)
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        driver.cuCtxPushCurrent_v2(context)
        for _ in range(3):
            driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(100))
        before = [control.live(), control.live_bytes()]
        driver.cuDevicePrimaryCtxRelease_v2(0)
        return [before, control.live(), control.abandoned(), control.depth()]

    assert run_on_device("", work) == [[{"device memory": 3}, 300], {}, 3, 1]


@pytest.mark.parametrize("function", ["cuMemAlloc_v2", "cuStreamCreate"])
def test_without_a_context_nothing_works(function: str) -> None:
    def work(function: str) -> int:
        import ctypes

        driver = ctypes.CDLL("libcuda.so.1")
        driver.cuInit(0)
        return int(getattr(driver, function)(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(8)))

    assert run_on_device("", work, function) == 201  # CUDA_ERROR_INVALID_CONTEXT
