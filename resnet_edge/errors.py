"""The errors a user of resnet-edge can meet.

::

    ResnetEdgeError            every error we raise on purpose: message + hint
    ├── CheckpointError        a checkpoint is missing, hostile, truncated or not a ResNet
    ├── DataError              images, labels or an image folder cannot be used
    ├── ExportError            the ONNX file does not equal the PyTorch model
    ├── GraphError             an ONNX graph is not what a stage can work on
    ├── CalibrationError       ranges cannot be collected or are not finite
    ├── BundleError            a bundle is missing, damaged, or lacks an artifact
    ├── ConfigError            a recipe, target or option is unknown or contradictory
    ├── BuildError             an engine cannot be built
    ├── DeviceError            the GPU ran out of memory or refused an operation
    ├── EngineMismatchError    an engine does not belong to this machine or this bundle
    └── BackendUnavailableError   what a command needs is not installed here

A missed accuracy gate is a *result* (exit code 3), not an error.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "BuildError",
    "BundleError",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "EngineMismatchError",
    "ExportError",
    "GraphError",
    "ResnetEdgeError",
]


class ResnetEdgeError(Exception):
    """Base of all errors raised on purpose; says what is wrong and how to fix it.

    Args:
        message: One line, names the offending file or option.
        hint: What the user can do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckpointError(ResnetEdgeError):
    """A checkpoint cannot be read safely or is not a ResNet."""


class DataError(ResnetEdgeError):
    """Images or labels cannot be used."""


class ExportError(ResnetEdgeError):
    """The exported ONNX model does not reproduce the PyTorch model."""


class GraphError(ResnetEdgeError):
    """An ONNX graph is not what this stage can work on."""


class CalibrationError(ResnetEdgeError):
    """Activation ranges cannot be collected or make no sense."""


class BundleError(ResnetEdgeError):
    """A bundle is missing, damaged, or lacks an artifact."""


class ConfigError(ResnetEdgeError):
    """A recipe, target or option is unknown, invalid or contradicts another."""


class BuildError(ResnetEdgeError):
    """An engine cannot be built."""


class DeviceError(ResnetEdgeError):
    """The GPU ran out of memory, or refused or failed an operation."""


class EngineMismatchError(ResnetEdgeError):
    """An engine does not belong to this machine, this runtime or this bundle."""


class BackendUnavailableError(ResnetEdgeError):
    """The library a command needs is not installed on this machine."""
