"""Take a trained ResNet to a proven FP16/INT8 engine for NVIDIA Jetson and desktop GPUs.

The public names are those in ``__all__`` here, and the stages, each a function named as its room::

    from resnet_edge import open_images, resolve_target
    from resnet_edge.export import export          # also calibrate, quantize, build,
    from resnet_edge.verify import verify          # verify, bench and train

Importing this package loads nothing heavy: a name is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from resnet_edge._version import __version__

if TYPE_CHECKING:
    from resnet_edge.backends.config import BuildConfig
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.catalog.automatic import resolve_target
    from resnet_edge.catalog.recipes import load_recipe
    from resnet_edge.errors import ResnetEdgeError
    from resnet_edge.export.foreign.import_onnx import import_onnx
    from resnet_edge.export.stage import ExportConfig
    from resnet_edge.images.opening import open_images
    from resnet_edge.images.spec import ImageSpec
    from resnet_edge.train.loop import TrainConfig
    from resnet_edge.verify.candidate import find_candidate

__all__ = [
    "BuildConfig",
    "Bundle",
    "ExportConfig",
    "ImageSpec",
    "ResnetEdgeError",
    "TrainConfig",
    "__version__",
    "find_candidate",
    "import_onnx",
    "load_recipe",
    "open_images",
    "resolve_target",
]

_HOMES = {
    "BuildConfig": "backends.config",
    "Bundle": "bundle.bundle",
    "ExportConfig": "export.stage",
    "ImageSpec": "images.spec",
    "ResnetEdgeError": "errors",
    "TrainConfig": "train.loop",
    "find_candidate": "verify.candidate",
    "import_onnx": "export.foreign.import_onnx",
    "load_recipe": "catalog.recipes",
    "open_images": "images.opening",
    "resolve_target": "catalog.automatic",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
