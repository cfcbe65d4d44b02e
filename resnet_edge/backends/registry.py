"""The backends by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from resnet_edge.backends.base import Backend

__all__ = ["BACKENDS", "get_backend"]

_CLASSES = {
    "onnxruntime": "OnnxRuntimeBackend",
    "tensorrt": "TensorRTBackend",
    "tensorrt_rtx": "TensorRTRtxBackend",
    "trtexec": "TrtexecBackend",
}
BACKENDS = tuple(_CLASSES)


def get_backend(name: str) -> Backend:
    """Return a backend.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in _CLASSES:
        raise ConfigError(f"unknown backend {name!r}", hint=f"use one of {', '.join(BACKENDS)}")
    module = import_module(f"resnet_edge.backends.{name}")
    backend: Backend = getattr(module, _CLASSES[name])()
    return backend
