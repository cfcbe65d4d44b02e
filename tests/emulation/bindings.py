"""The real Python bindings of several TensorRT versions, without the libraries behind them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tests.conftest import require
from tests.emulation.build import MissingError, fetch, nvinfer_libraries
from tests.emulation.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VERSIONS", "run_with_bindings"]

_PACKAGES = {
    "8.6": "tensorrt-bindings==8.6.1",
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu12-bindings==10.13.3.9",
    "10.16": "tensorrt-cu12-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
VERSIONS = tuple(_PACKAGES)


def run_with_bindings(version: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process where ``import tensorrt`` gives a version.

    Classes, methods and enumerators can be looked at; what creates an object ends the process.

    Args:
        version: One of `VERSIONS`.
        function: See `run`.
        arguments: What it is given.
    """
    if version == "8.6" and sys.version_info >= (3, 12):
        why = "they end with Python 3.11"
        require("tensorrt-bindings-8.6", available=False, reason=why)
    try:
        package = fetch(_PACKAGES[version])
        libraries = nvinfer_libraries(version.split(".")[0])
    except MissingError as error:
        require("tensorrt-bindings", available=False, reason=str(error))
    # The package that applications import is a thin one on top of the bindings.
    prepare = "import tensorrt_bindings; sys.modules['tensorrt'] = tensorrt_bindings"
    return run(function, *arguments, packages=[package], libraries=libraries, prepare=prepare)
