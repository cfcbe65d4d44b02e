"""Runs a function on the emulated device, through the real pycuda or cuda-python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tests.conftest import require
from tests.emulation.build import (
    MissingError,
    cuda_libraries,
    cuda_python,
    cuda_python_11,
    pycuda,
)
from tests.emulation.run import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["run_on_device"]

_PACKAGES = {"pycuda": pycuda, "cuda-python": cuda_python, "cuda-python-11": cuda_python_11}


def run_on_device(
    library: str,
    function: Callable[..., Any],
    *arguments: Any,
    tensorrt: str | None = None,
    **device: Any,
) -> Any:
    """Return what a function returns in a process that has the emulated device.

    Args:
        library: What is installed there: ``pycuda``, ``cuda-python``, ``cuda-python-11``, several
            with commas, or none.
        function: See `tests.emulation.run.run`.
        arguments: What it is given.
        tensorrt: Version of the fake TensorRT to import there, for example ``10.3``.
        device: What the device is, see ``settings`` in ``libcuda/state.h``: ``integrated=1`` sets
            ``EMULATED_CUDA_INTEGRATED``.
    """
    if sys.platform != "linux":
        require("emulation", available=False, reason="the emulated driver is for Linux")
    name = "emulation"
    packages: list[Path] = []
    try:
        libraries = cuda_libraries()
        for name in filter(None, library.split(",")):
            packages += _PACKAGES[name]()
    except MissingError as error:
        require(name, available=False, reason=str(error))
    asked = {"cuda" if name.startswith("cuda-python") else name for name in library.split(",")}
    hidden = {"pycuda", "cuda"} - asked  # the environment of the tests may have them
    environment = {f"EMULATED_CUDA_{key.upper()}": str(value) for key, value in device.items()}
    prepare = f"import sys; sys.modules.update(dict.fromkeys({sorted(hidden)})); "
    if tensorrt is not None:
        prepare += (
            f"from tests.emulation.fake_tensorrt.module import install; install({tensorrt!r})"
        )
    return run(
        function,
        *arguments,
        packages=packages,
        libraries=libraries,
        environment=environment,
        prepare=prepare,
    )
