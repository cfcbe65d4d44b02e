"""The manifest of a bundle, typed: what ``bundle.json`` holds, checked when it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from resnet_edge._version import __version__
from resnet_edge.bundle.names import MODEL
from resnet_edge.errors import BundleError, ConfigError
from resnet_edge.files import read_json, write_json
from resnet_edge.images.spec import ImageSpec
from resnet_edge.schema import decode, encode

__all__ = ["Artifact", "Manifest", "ModelInfo", "Record", "check_name"]

_SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "export the checkpoint again"


@dataclass(frozen=True)
class ModelInfo:
    """What a device needs to know about the network.

    Attributes:
        architecture: Name in the zoo, or ``onnx`` for a model that came as ONNX.
        num_classes: Number of logits.
        labels: Class names, or None.
        image_spec: Preprocessing.
        parameters: Number of trained parameters, None for a model that came as ONNX.
        macs: Multiply-adds for one image, None for a model that came as ONNX.
        source: Name of the checkpoint or ONNX file; where it lies is not the bundle's to tell.
        source_sha256: Its hash.
    """

    architecture: str
    num_classes: int
    labels: tuple[str, ...] | None
    image_spec: ImageSpec
    parameters: int | None
    macs: int | None
    source: str
    source_sha256: str


@dataclass(frozen=True)
class Record:
    """How one artifact came to be.

    Attributes:
        stage: Name of the stage, for example ``export``.
        config: JSON values that determine the result, besides the inputs.
        inputs: Hash of each input by name.
        tools: Version of each tool that took part.
        details: What is worth knowing about the result.
    """

    stage: str
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact(Record):
    """A file of the bundle, and how it came to be.

    Attributes:
        sha256: Hash of its content.
        bytes: Its size.
        created: When it was recorded, with the time zone.
    """

    sha256: str = ""
    bytes: int = 0
    created: str = ""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"{self.sha256!r} is not a SHA-256")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    Attributes:
        model: The network.
        artifacts: By relative path, oldest first.
        tool: What wrote the manifest.
        schema: Version of this format.
    """

    model: ModelInfo
    artifacts: Mapping[str, Artifact]
    tool: str = f"resnet-edge {__version__}"
    schema: int = _SCHEMA

    def __post_init__(self) -> None:
        for name in self.artifacts:
            check_name(name)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read ``bundle.json``.

        Raises:
            BundleError: It is not a manifest of this version, names files outside of the bundle,
                or records no model.
        """
        value = read_json(path)
        if not isinstance(value, dict):
            raise BundleError(f"{path} is not a bundle manifest", hint=_AGAIN)
        if value.get("schema") != _SCHEMA:
            raise BundleError(
                f"{path} has schema {value.get('schema')!r}, this resnet-edge reads {_SCHEMA}",
                hint=_AGAIN,
            )
        try:
            found = decode(cls, value, str(path))
        except ConfigError as error:
            raise BundleError(f"{error.message}: damaged", hint=_AGAIN) from error
        if MODEL not in found.artifacts:
            raise BundleError(f"{path} is damaged: it records no {MODEL}", hint=_AGAIN)
        return found

    def write(self, path: Path) -> None:
        """Write ``bundle.json``, atomically."""
        order = ("schema", "tool", "model", "artifacts")
        write_json(path, {key: encode(getattr(self, key)) for key in order})


def check_name(name: str) -> None:
    """Refuse the name of an artifact that could lead out of its bundle.

    Raises:
        ConfigError: It is no relative path with forward slashes, or climbs.
    """
    parts = PurePosixPath(name).parts
    relative = bool(parts) and name == str(PurePosixPath(*parts)) and not name.startswith("/")
    if not relative or ".." in parts or any(c in name for c in "\\:\0\n"):
        raise ConfigError(f"{name!r} is not the name of a file inside the bundle")
