"""The JSON beside an engine that says what it is, checked before the engine is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_edge.errors import BundleError, ConfigError, EngineMismatchError
from resnet_edge.files import read_json, sha256_file, write_bytes, write_json
from resnet_edge.schema import decode, encode
from resnet_edge.tensors import TensorSpec

__all__ = ["Sidecar", "copy_engine", "read_sidecar", "sidecar_path", "write_sidecar"]

_SCHEMA = 1


@dataclass(frozen=True)
class Sidecar:
    """What stands beside an engine and is checked before it is loaded.

    Attributes:
        backend: Name of the backend that built it.
        runtime_version: Version of the library that built it, which a plan is bound to.
        target: Name of the target.
        compute_capabilities: GPUs it was built for; empty for a CPU.
        device: Name of the GPU it was built on; empty if built ahead of time.
        system: Operating system and architecture.
        precision: ``fp32``, ``fp16`` or ``int8``.
        rest: Type of what is not quantized.
        onnx: Path of the source graph relative to the bundle.
        onnx_sha256: Its hash.
        engine_sha256: Hash of the engine file.
        profile: Smallest, optimal and largest batch; None where any batch runs.
        settings: Options of the build that differ from their default.
        inputs: What the engine takes; None stands for the batch.
        outputs: What it returns.
        warnings: What the builder warned about.
        notes: What the user should know, for example what is experimental.
    """

    backend: str
    runtime_version: str
    target: str
    compute_capabilities: tuple[str, ...]
    device: str
    system: str
    precision: str
    rest: str
    onnx: str
    onnx_sha256: str
    engine_sha256: str
    profile: tuple[int, int, int] | None
    settings: Mapping[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def sidecar_path(engine: Path) -> Path:
    """Return where an engine's sidecar stands."""
    return engine.with_name(engine.name + ".json")


def write_sidecar(engine: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of an engine that stands already."""
    size = engine.stat().st_size
    write_json(sidecar_path(engine), {"schema": _SCHEMA, **encode(sidecar), "bytes": size})


def copy_engine(engine: Path, destination: Path) -> None:
    """Copy an engine with its sidecar to another place and name."""
    write_bytes(destination, engine.read_bytes())
    write_bytes(sidecar_path(destination), sidecar_path(engine).read_bytes())


def read_sidecar(engine: Path) -> Sidecar:
    """Read an engine's sidecar and check that it describes this very file.

    Raises:
        EngineMismatchError: There is none, it is malformed, or the engine was changed.
    """
    path = sidecar_path(engine)
    if not engine.is_file():
        raise EngineMismatchError(f"no such engine: {engine}")
    if not path.is_file():
        raise EngineMismatchError(
            f"{engine} has no sidecar {path.name}, so nothing says what it was built from",
            hint="build it with resnet-edge; an engine runs native code and is not loaded on trust",
        )
    try:
        sidecar = decode(Sidecar, read_json(path), path.name, strict=False)
    except (BundleError, ConfigError) as error:
        raise EngineMismatchError(f"{path} is not an engine's sidecar: {error}") from error
    specs = (*sidecar.inputs, *sidecar.outputs)
    if not sidecar.inputs or not sidecar.outputs or any(not spec.shape for spec in specs):
        raise EngineMismatchError(
            f"{path} is not an engine's sidecar: an engine has inputs and outputs with a batch"
        )
    if sha256_file(engine) != sidecar.engine_sha256:
        raise EngineMismatchError(
            f"{engine} is not the file its sidecar describes", hint="build it again"
        )
    return sidecar
