"""What the stages record of a model and of an engine, typed; and which artifacts are engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.local import find_path
from resnet_edge.bundle.names import MODEL
from resnet_edge.errors import BundleError, ConfigError
from resnet_edge.schema import decode

__all__ = [
    "BuildRecord",
    "BuildTarget",
    "ModelRecord",
    "build_record",
    "builds",
    "checkpoint_of",
    "images_of",
    "model_record",
]

T = TypeVar("T")


@dataclass(frozen=True)
class ModelRecord:
    """How the float model came to be.

    Attributes:
        parity: Against its original on the golden images, as JSON.
        nodes: Number of nodes by operator.
        data: Name of the image set the golden images were drawn from; in bundles of before
            December 2026 its path.
        network: The PyTorch network's configuration as JSON; None for a model that came as ONNX.
        probabilities: Parity behind the final activation that was left out, None if none was.
        notes: What was assumed and changed.
        input: Name of the original's input.
        images: Hash of the images the golden ones were drawn from.
    """

    parity: Mapping[str, Any]
    nodes: Mapping[str, int]
    data: str | None = None
    network: Mapping[str, Any] | None = None
    probabilities: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    input: str = "input"
    images: str = ""


@dataclass(frozen=True)
class BuildTarget:
    """The device an engine was built for, as far as engines are told apart by it."""

    name: str
    backend: str


@dataclass(frozen=True)
class BuildRecord:
    """How an engine came to be.

    Attributes:
        target: The device.
        precision: ``fp32``, ``fp16`` or ``int8``.
        seconds: Time the build took.
    """

    target: BuildTarget
    precision: str
    seconds: float = 0.0


def model_record(bundle: Bundle) -> ModelRecord:
    """Return what is recorded of the bundle's float model.

    Raises:
        BundleError: The record is damaged.
    """
    entry = bundle.entry(MODEL)
    network = {"network": entry.config["network"]} if "network" in entry.config else {}
    images = {"images": entry.inputs["images"]} if "images" in entry.inputs else {}
    return _decoded(ModelRecord, {**entry.details, **network, **images}, bundle, MODEL)


def build_record(bundle: Bundle, name: str) -> BuildRecord:
    """Return what is recorded of an engine.

    Raises:
        BundleError: The record is damaged, or of something else.
    """
    entry = bundle.entry(name)
    return _decoded(BuildRecord, {**entry.config, **entry.details}, bundle, name)


def builds(bundle: Bundle) -> tuple[str, ...]:
    """Return the names of the bundle's engines, oldest first."""
    return tuple(name for name in bundle.names() if bundle.entry(name).stage == "build")


def checkpoint_of(bundle: Bundle) -> Path | None:
    """Return where the bundle's checkpoint lies on this machine; None if it is not known.

    Bundles of before December 2026 name a path; its content is checked against the hash by whoever
    reads it.
    """
    return _old_path(bundle.model.source) or find_path("checkpoints", bundle.model.source_sha256)


def images_of(bundle: Bundle) -> Path | None:
    """Return where the images that the golden ones come from lie here; None if not known."""
    recorded = model_record(bundle)
    known = find_path("images", recorded.images) if recorded.images else None
    return _old_path(recorded.data or "") or known


def _old_path(name: str) -> Path | None:
    """Return the path that an old bundle records in place of a name, if there is something."""
    path = Path(name)
    return path if path.is_absolute() and path.exists() else None


def _decoded(kind: type[T], value: Mapping[str, Any], bundle: Bundle, name: str) -> T:
    try:
        return decode(kind, dict(value), f"{bundle.path}: {name}", strict=False)
    except ConfigError as error:
        raise BundleError(f"the record of {error.message}", hint="make it again") from error
