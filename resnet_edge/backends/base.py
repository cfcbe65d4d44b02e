"""The contracts between the stages and the runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.closing import Closing
from resnet_edge.backends.config import BuildConfig, Calibration, EngineArtifact
from resnet_edge.bundle.names import GraphKind
from resnet_edge.bundle.sidecar import Sidecar
from resnet_edge.catalog.targets import Target
from resnet_edge.errors import ConfigError
from resnet_edge.images.batches import portions
from resnet_edge.progress import Progress
from resnet_edge.tensors import TensorSpec

__all__ = ["Availability", "Backend", "SelfTimed", "Session", "Timings"]

_FLAGS = {
    "compute_capabilities": "--compute-capability",
    "timing_cache": "--no-timing-cache",
}


@dataclass(frozen=True)
class Availability:
    """What a backend can do on this machine.

    Attributes:
        available: Whether it can be used at all.
        version: Version of the library, None if it is not installed.
        detail: One line for people: devices, or why it cannot be used and what fixes that.
    """

    available: bool
    version: str | None
    detail: str


class Session(Closing):
    """A loaded network that maps named arrays to named arrays.

    Attributes:
        inputs: What `run` takes.
        outputs: What it returns.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once and return every output."""

    @property
    def batch_range(self) -> tuple[int, int | None]:
        """Fewest and most images per call; the most is None where there is no limit."""
        fixed = self.inputs[0].shape[0]
        return fixed or 1, fixed

    def run_rows(
        self,
        rows: NDArray[Any],
        batch: int | None = None,
        *,
        constants: Mapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run any number of images, whatever batch the network takes.

        Args:
            rows: The images.
            batch: Images per call; default as many as `batch_range` allows.
            constants: Other inputs, the same in every call.

        Returns:
            Every output, with one row for each image.
        """
        name, parts = self.inputs[0].name, []
        for part, count in portions(rows, *((batch, batch) if batch else self.batch_range)):
            found = self.run({name: part, **(constants or {})})
            parts.append(found if count == len(part) else {k: v[:count] for k, v in found.items()})
        if len(parts) == 1:
            return parts[0]
        return {key: np.concatenate([found[key] for found in parts]) for key in parts[0]}

    @abstractmethod
    def close(self) -> None:
        """Release what the runtime holds; the session cannot be used afterwards."""


@dataclass(frozen=True)
class Timings:
    """How long calls took, in milliseconds, one entry per call.

    Attributes:
        total: Whole calls, copies included.
        parts: ``h2d``, ``compute`` and ``d2h`` where the runtime tells them apart, else empty.
    """

    total: tuple[float, ...]
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class SelfTimed(Session):
    """A session that times its calls itself, since it knows what the clock outside cannot."""

    @abstractmethod
    def measure(
        self, feed: Mapping[str, NDArray[Any]], *, warm_up: float, seconds: float, count: int
    ) -> Timings:
        """Time one call after another.

        Args:
            feed: Input arrays by name.
            warm_up: Seconds of calls that do not count, at least.
            seconds: Duration of the measurement, at least.
            count: Number of calls, at least.
        """


class Backend(ABC):
    """A runtime that builds engines and, where the machine allows, runs them.

    Attributes:
        name: As written in targets and sidecars.
        suffix: Of an engine file.
        fp16: Whether it has FP16 kernels.
        profiles: Whether an engine is bound to an optimization profile.
        options: Names of the fields of `BuildConfig` that it can honour, besides the first three.
        native: Whether loading an engine runs native code that the engine brings along.
    """

    name: str
    suffix = ".engine"
    fp16 = True
    profiles = True
    options: frozenset[str] = frozenset()
    native = True

    @abstractmethod
    def probe(self) -> Availability:
        """Say what it can do on this machine; never raises."""

    @abstractmethod
    def version(self) -> str:
        """Return the version an engine built here is bound to.

        Raises:
            BackendUnavailableError: The library is not installed.
        """

    def check(self, config: BuildConfig) -> None:
        """Refuse options that this backend cannot honour.

        Raises:
            BackendUnavailableError: The library is not installed.
            ConfigError: It has no such option, here or at all.
        """
        for name in config.settings.keys() - self.options:
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise ConfigError(f"{self.name} cannot honour {flag}", hint="leave it out")

    @abstractmethod
    def graph(self, config: BuildConfig) -> GraphKind:
        """Return which of a bundle's graphs this backend builds from.

        Raises:
            ConfigError: It has no such precision.
        """

    @abstractmethod
    def build(
        self,
        source: Path,
        target: Target,
        config: BuildConfig,
        *,
        calibration: Calibration | None = None,
        progress: Progress,
    ) -> EngineArtifact:
        """Build an engine from an ONNX file.

        Args:
            source: The graph that `graph` asks for.
            target: The device.
            config: What to build; `check` accepted it.
            calibration: Given if ``config.implicit``.
            progress: Listener.

        Raises:
            BackendUnavailableError: The library is not installed.
            BuildError: It refused.
        """

    @abstractmethod
    def obstacle(self, sidecar: Sidecar) -> str | None:
        """Return why an engine cannot run on this machine; None where it can. Never raises."""

    @abstractmethod
    def open(self, engine: Path, sidecar: Sidecar, *, host_code: bool = False) -> Session:
        """Load an engine whose sidecar was checked; `open_engine` also asks who built it.

        Args:
            engine: The file.
            sidecar: What it is.
            host_code: Whether the code that a version-compatible engine brings along may run. No
                file may say so: whoever loads the engine vouches for it.

        Raises:
            BackendUnavailableError: The library or the device is missing.
            EngineMismatchError: The engine does not belong to this machine or runtime.
        """
