"""The backends by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from resnet_edge.backends.base import Backend
from resnet_edge.errors import ConfigError

__all__ = ["BACKENDS", "get_backend"]

_CLASSES = {
    "onnxruntime": ("onnxruntime", "OnnxRuntimeBackend"),
    "tensorrt": ("tensorrt.backend", "TensorRTBackend"),
    "tensorrt_rtx": ("tensorrt.rtx", "TensorRTRtxBackend"),
    "trtexec": ("trtexec.backend", "TrtexecBackend"),
}
BACKENDS = tuple(_CLASSES)


def get_backend(name: str) -> Backend:
    """Return a backend.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in _CLASSES:
        raise ConfigError(f"unknown backend {name!r}", hint=f"use one of {', '.join(BACKENDS)}")
    module, backend_class = _CLASSES[name]
    backend: Backend = getattr(import_module(f"resnet_edge.backends.{module}"), backend_class)()
    return backend
