"""The bundle: a directory that carries a model from checkpoint to engine, with its proofs.

``bundle.json`` records for every artifact what made it, from what, and what it hashes to. A stage
is skipped when that record still holds. The directory can be copied to a device and used there
without PyTorch. Commands may work on one bundle at the same time: each entry is added to the
manifest as it is then on disk, under a lock that is held for that moment only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from resnet_edge.bundle.manifest import Artifact, Manifest, ModelInfo, Record, check_name
from resnet_edge.bundle.names import LOCK, MANIFEST, TABLE, graph_name
from resnet_edge.errors import BundleError, ConfigError
from resnet_edge.files import sha256_file
from resnet_edge.schema import encode

__all__ = ["Bundle"]

_PATIENCE = 60.0  # seconds; the lock is held for milliseconds
_MAKERS = {TABLE: "calibrate", graph_name("int8"): "quantize"}


class Bundle:
    """A directory with a manifest.

    Args:
        path: The directory.
        manifest: What it says about itself.
        new: The model is another than the one on disk, and is written with the next record.
    """

    def __init__(self, path: Path, manifest: Manifest, *, new: bool = False) -> None:
        self.path = path
        self._manifest = manifest
        self._new = new

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
        return cls(path, Manifest.read(path / MANIFEST))

    @classmethod
    def create(cls, path: Path, model: ModelInfo) -> Bundle:
        """Open the bundle at ``path`` for this model, or start an empty one.

        Artifacts of an earlier export stay recorded; they are judged by their input hashes.

        Raises:
            BundleError: The directory is not empty and not a bundle.
        """
        if (path / MANIFEST).exists():
            artifacts = cls.open(path)._manifest.artifacts
            return cls(path, Manifest(model, artifacts), new=True)
        if path.exists() and (
            not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir())
        ):
            raise BundleError(
                f"{path} exists and is not a bundle",
                hint="choose an empty or new directory with -o",
            )
        return cls(path, Manifest(model, {}), new=True)

    @property
    def model(self) -> ModelInfo:
        """The network's description."""
        return self._manifest.model

    def file(self, name: str) -> Path:
        """Return where an artifact of this name lives, whether or not it exists.

        Raises:
            BundleError: That would be outside of the bundle, directly or through a link.
        """
        path = self.path / name
        try:
            check_name(name)
        except ConfigError as error:
            raise BundleError(f"{self.path}: {error.message}") from error
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(
                f"{path} leads out of the bundle, to {path.resolve()}",
                hint="a bundle holds its files itself: put the file there instead of the link",
            )
        return path

    def artifact(self, name: str) -> Path:
        """Return an existing artifact's path after checking its hash.

        Raises:
            BundleError: It is not there or was changed behind the manifest's back.
        """
        path = self.file(name)
        if name not in self._manifest.artifacts or not path.is_file():
            recorded = self._manifest.artifacts.get(name)
            stage = recorded.stage if recorded else _MAKERS.get(name, "export")
            raise BundleError(
                f"{self.path} has no {name}", hint=f"make it with: resnet-edge {stage} {self.path}"
            )
        if sha256_file(path) != self.sha256(name):
            raise BundleError(
                f"{path} is not the file the bundle recorded",
                hint="it was changed or damaged; run the stage that made it again",
            )
        return path

    def names(self) -> tuple[str, ...]:
        """Return the relative paths of all recorded artifacts, oldest first."""
        return tuple(self._manifest.artifacts)

    def entry(self, name: str) -> Artifact:
        """Return what is recorded of an artifact.

        Raises:
            BundleError: Nothing is.
        """
        if name not in self._manifest.artifacts:
            raise BundleError(f"{self.path} records no {name}")
        return self._manifest.artifacts[name]

    def sha256(self, name: str) -> str:
        """Return the recorded hash of an artifact."""
        return self.entry(name).sha256

    def is_fresh(self, name: str, record: Record) -> bool:
        """Tell whether the artifact exists, intact, and was made just as ``record`` says.

        Tool versions do not count: a newer numpy does not make a calibration stale.
        """
        entry = self._manifest.artifacts.get(name)
        if entry is None or not self.file(name).is_file():
            return False
        for key in ("stage", "config", "inputs"):
            if encode(getattr(entry, key)) != encode(getattr(record, key)):
                return False
        return sha256_file(self.file(name)) == entry.sha256

    def record(self, name: str, record: Record, *, sha256: str | None = None) -> None:
        """Enter an artifact that now exists into the manifest; ``sha256`` where it is known."""
        path = self.file(name)
        values: dict[str, Any] = {key: encode(value) for key, value in vars(record).items()}
        entry = Artifact(
            **values,
            sha256=sha256 or sha256_file(path),
            bytes=path.stat().st_size,
            created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        )
        self.save({name: entry})

    def save(self, entries: dict[str, Artifact] | None = None) -> None:
        """Add entries to the manifest as it is on disk now, and write it.

        Raises:
            BundleError: It cannot be written, or somebody else holds its lock.
        """
        with self._locked():
            artifacts = dict(self._manifest.artifacts)
            model = self.model
            if (self.path / MANIFEST).is_file():
                present = Manifest.read(self.path / MANIFEST)
                artifacts, model = dict(present.artifacts), model if self._new else present.model
            for name, entry in (entries or {}).items():
                artifacts.pop(name, None)  # the newest goes last
                artifacts[name] = entry
            self._manifest, self._new = Manifest(model, artifacts), False
            self._manifest.write(self.path / MANIFEST)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / LOCK, timeout=_PATIENCE):
                yield
        except Timeout as error:
            raise BundleError(
                f"another command has been writing to {self.path} for {_PATIENCE:.0f} s",
                hint=f"wait for it; if there is none, its machine died: remove {self.path / LOCK}",
            ) from error
        except (NotImplementedError, OSError) as error:
            raise BundleError(
                f"{self.path} cannot be locked or written: {error}",
                hint="copy the bundle to a disk that can be written and has file locks",
            ) from error
