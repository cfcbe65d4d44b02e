"""The bundle: a directory that carries a model from checkpoint to engine, with its proofs.

``bundle.json`` records for every artifact what made it, from what, and what it hashes to. A stage
is skipped when that record still holds. The directory can be copied to a device and used there
without PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from resnet_edge._version import __version__
from resnet_edge.bundle.names import MANIFEST
from resnet_edge.errors import BundleError
from resnet_edge.files import read_json, sha256_file, write_json
from resnet_edge.images.spec import ImageSpec

__all__ = ["Bundle", "ModelInfo", "Record"]

_SCHEMA = 1
_MAKERS = {"calibration.json": "calibrate", "model.int8.onnx": "quantize"}


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
        source: Path of the checkpoint or ONNX file.
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

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value = asdict(self)
        value["labels"] = None if self.labels is None else list(self.labels)
        value["image_spec"] = self.image_spec.to_json()
        return value

    @classmethod
    def from_json(cls, value: Any) -> ModelInfo:
        """Read what ``to_json`` wrote.

        Raises:
            BundleError: Keys are missing or unknown.
        """
        if not isinstance(value, dict) or set(value) != {f.name for f in fields(cls)}:
            raise BundleError("the bundle's model description is malformed")
        labels = value["labels"]
        if labels is not None and not isinstance(labels, list):
            raise BundleError("the bundle's labels are malformed")
        return cls(
            **{
                **value,
                "labels": None if labels is None else tuple(str(label) for label in labels),
                "image_spec": ImageSpec.from_json(value["image_spec"]),
            }
        )


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


class Bundle:
    """A directory with a manifest.

    Args:
        path: The directory.
        model: The network's description.
        artifacts: Manifest entries by relative path.
    """

    def __init__(self, path: Path, model: ModelInfo, artifacts: dict[str, dict[str, Any]]) -> None:
        self.path = path
        self.model = model
        self._artifacts = artifacts

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open an existing bundle.

        Raises:
            BundleError: There is none, or its manifest is damaged.
        """
        if not (path / MANIFEST).is_file():
            raise BundleError(
                f"{path} is not a bundle (no {MANIFEST})",
                hint=f"make one with: resnet-edge export CHECKPOINT -o {path}",
            )
        manifest = read_json(path / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("schema") != _SCHEMA:
            raise BundleError(
                f"{path / MANIFEST} has schema {manifest.get('schema')!r}, "
                f"this resnet-edge reads {_SCHEMA}"
                if isinstance(manifest, dict)
                else f"{path / MANIFEST} is not a bundle manifest",
                hint="export the checkpoint again",
            )
        artifacts = manifest.get("artifacts")
        if not isinstance(artifacts, dict) or not all(map(_is_entry, artifacts.values())):
            raise BundleError(
                f"{path / MANIFEST} is damaged: its artifacts are not what this tool records",
                hint="export the checkpoint again",
            )
        return cls(path, ModelInfo.from_json(manifest.get("model")), artifacts)

    @classmethod
    def create(cls, path: Path, model: ModelInfo) -> Bundle:
        """Open the bundle at ``path`` for this model, or start an empty one.

        Artifacts of an earlier export stay recorded; they are judged by their input hashes.

        Raises:
            BundleError: The directory is not empty and not a bundle.
        """
        if (path / MANIFEST).exists():
            existing = cls.open(path)
            return cls(path, model, existing._artifacts)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BundleError(
                f"{path} exists and is not a bundle",
                hint="choose an empty or new directory with -o",
            )
        return cls(path, model, {})

    def file(self, name: str) -> Path:
        """Return where an artifact of this name lives, whether or not it exists."""
        return self.path / name

    def artifact(self, name: str) -> Path:
        """Return an existing artifact's path after checking its hash.

        Raises:
            BundleError: It is not there or was changed behind the manifest's back.
        """
        path = self.path / name
        if name not in self._artifacts or not path.is_file():
            stage = self._artifacts.get(name, {}).get("stage", _MAKERS.get(name, "export"))
            raise BundleError(
                f"{self.path} has no {name}", hint=f"make it with: resnet-edge {stage} {self.path}"
            )
        if sha256_file(path) != self._artifacts[name]["sha256"]:
            raise BundleError(
                f"{path} is not the file the bundle recorded",
                hint="it was changed or damaged; run the stage that made it again",
            )
        return path

    def names(self) -> tuple[str, ...]:
        """Return the relative paths of all recorded artifacts, oldest first."""
        return tuple(self._artifacts)

    def entry(self, name: str) -> Mapping[str, Any]:
        """Return the manifest entry of an artifact."""
        return self._artifacts[name]

    def sha256(self, name: str) -> str:
        """Return the recorded hash of an artifact."""
        return str(self._artifacts[name]["sha256"])

    def is_fresh(self, name: str, record: Record) -> bool:
        """Tell whether the artifact exists, intact, and was made just as ``record`` says.

        Tool versions do not count: a newer numpy does not make a calibration stale.
        """
        entry = self._artifacts.get(name)
        if entry is None or not (self.path / name).is_file():
            return False
        wanted = {"stage": record.stage, "config": record.config, "inputs": record.inputs}
        if any(entry.get(key) != _plain(value) for key, value in wanted.items()):
            return False
        return sha256_file(self.path / name) == self.sha256(name)

    def record(self, name: str, record: Record, *, sha256: str | None = None) -> None:
        """Enter an artifact that now exists into the manifest; ``sha256`` where it is known."""
        path = self.path / name
        self._artifacts.pop(name, None)  # the newest goes last
        self._artifacts[name] = {
            "sha256": sha256 or sha256_file(path),
            "bytes": path.stat().st_size,
            **{key: _plain(value) for key, value in asdict(record).items()},
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        write_json(
            self.path / MANIFEST,
            {
                "schema": _SCHEMA,
                "tool": f"resnet-edge {__version__}",
                "model": self.model.to_json(),
                "artifacts": self._artifacts,
            },
        )


def _is_entry(value: Any) -> bool:
    keys = {"sha256": str, "bytes": int, "stage": str, "config": dict, "inputs": dict}
    return isinstance(value, dict) and all(isinstance(value.get(k), t) for k, t in keys.items())


def _plain(value: Any) -> Any:
    """Return ``value`` as it will look after a round trip through JSON."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
