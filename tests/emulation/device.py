"""Runs a function on the emulated device, through the real pycuda or cuda-python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tests.conftest import require
from tests.emulation.build import MissingError, cuda_libraries, cuda_python, pycuda
from tests.emulation.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_on_device"]


def run_on_device(
    library: str,
    function: Callable[..., Any],
    *arguments: Any,
    tensorrt: str | None = None,
    **device: Any,
) -> Any:
    """Return what a function returns in a process that has the emulated device.

    Args:
        library: What is installed there: ``pycuda``, ``cuda-python``, both with a comma, or "".
        function: See `tests.emulation.run.run`.
        arguments: What it is given.
        tensorrt: Version of the fake TensorRT to import there, for example ``10.3``.
        device: What the device is, see ``settings`` in ``libcuda.c``: ``integrated=1`` sets
            ``EMULATED_CUDA_INTEGRATED``.
    """
    if sys.platform != "linux":
        require("emulation", available=False, reason="the emulated driver is for Linux")
    name = "emulation"
    packages = []
    try:
        libraries = cuda_libraries()
        for name in filter(None, library.split(",")):
            packages += [pycuda()] if name == "pycuda" else cuda_python()
    except MissingError as error:
        require(name, available=False, reason=str(error))
    environment = {f"EMULATED_CUDA_{key.upper()}": str(value) for key, value in device.items()}
    prepare = ""
    if tensorrt is not None:
        prepare = f"from tests.emulation.fake_tensorrt.module import install; install({tensorrt!r})"
    return run(
        function,
        *arguments,
        packages=packages,
        libraries=libraries,
        environment=environment,
        prepare=prepare,
    )
