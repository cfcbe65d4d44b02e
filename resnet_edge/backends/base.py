"""The contracts between the stages and the runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from resnet_edge.batches import portions
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from resnet_edge.progress import Progress
    from resnet_edge.quantize.stage import Graph
    from resnet_edge.sidecar import Sidecar
    from resnet_edge.targets import Target

__all__ = ["Availability", "Backend", "BuildConfig", "EngineArtifact", "Session", "TensorSpec"]

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of an input or output.

    Attributes:
        name: Tensor name.
        shape: Extents; None where dynamic.
        dtype: numpy name, for example ``float32``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


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


class Session(ABC):
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
    def batch(self) -> int | None:
        """Images per call, None where any number runs."""
        return self.inputs[0].shape[0]

    def run_rows(self, rows: NDArray[Any], batch: int | None = None) -> dict[str, NDArray[Any]]:
        """Run any number of images, whatever batch the network takes.

        Args:
            rows: The images.
            batch: Images per call; default `batch`.

        Returns:
            Every output, with one row for each image.
        """
        import numpy as np

        name, parts = self.inputs[0].name, []
        for part, count in portions(rows, batch or self.batch):
            found = self.run({name: part})
            parts.append(found if count == len(part) else {k: v[:count] for k, v in found.items()})
        if len(parts) == 1:
            return parts[0]
        return {key: np.concatenate([found[key] for found in parts]) for key in parts[0]}

    @abstractmethod
    def close(self) -> None:
        """Release what the runtime holds; the session cannot be used afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        rest: For ``int8``: type of everything that is not quantized, ``fp16`` or ``fp32``.
        profile: Smallest, optimal and largest batch of the optimization profile.
        reduce_range: For the CPU twin: 7-bit weights, for an x86 without VNNI; default as this
            machine needs it.
    """

    precision: Precision
    rest: Literal["fp16", "fp32"] = "fp16"
    profile: tuple[int, int, int] = (1, 8, 32)
    reduce_range: bool | None = None

    def __post_init__(self) -> None:
        low, best, high = self.profile
        if not 1 <= low <= best <= high:
            raise ConfigError(
                f"profile {low},{best},{high} makes no sense",
                hint="give smallest,optimal,largest batch, for example --profile 1,8,32",
            )


@dataclass(frozen=True)
class EngineArtifact:
    """What a backend built.

    Attributes:
        data: The engine, byte for byte what the builder returned.
        warnings: What the builder warned about, each text once.
    """

    data: bytes
    warnings: tuple[str, ...] = ()


class Backend(ABC):
    """A runtime that builds engines and, where the machine allows, runs them.

    Attributes:
        name: As written in targets and sidecars.
        suffix: Of an engine file.
        fp16: Whether it has FP16 kernels.
        profiles: Whether an engine is bound to an optimization profile.
    """

    name: str
    suffix = ".engine"
    fp16 = True
    profiles = True

    @abstractmethod
    def probe(self) -> Availability:
        """Say what it can do on this machine; never raises."""

    @abstractmethod
    def version(self) -> str:
        """Return the version an engine built here is bound to.

        Raises:
            BackendUnavailableError: The library is not installed.
        """

    @abstractmethod
    def graph(self, config: BuildConfig) -> Graph:
        """Return which of a bundle's graphs this backend builds from.

        Raises:
            ConfigError: It has no such precision.
        """

    @abstractmethod
    def build(
        self, source: Path, target: Target, config: BuildConfig, *, progress: Progress
    ) -> EngineArtifact:
        """Build an engine from an ONNX file.

        Raises:
            BackendUnavailableError: The library is not installed.
            BuildError: It refused.
        """

    @abstractmethod
    def obstacle(self, sidecar: Sidecar) -> str | None:
        """Return why an engine cannot run on this machine; None where it can. Never raises."""

    @abstractmethod
    def open(self, engine: Path, sidecar: Sidecar) -> Session:
        """Load an engine whose sidecar was checked.

        Raises:
            BackendUnavailableError: The library or the device is missing.
            EngineMismatchError: The engine does not belong to this machine or runtime.
        """
