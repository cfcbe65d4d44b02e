"""From a file or directory to tensors by name, with whatever else is recorded beside them.

Nothing here knows what a ResNet is; ``names`` and ``identify`` do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import CheckpointError
from resnet_edge.files import sha256_file, sha256_json
from resnet_edge.models.naming import holds_resnet
from resnet_edge.models.torch_files import LEGACY_MAGIC, ZIP_MAGIC, read_torch_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OWN_METADATA", "Contents", "content_sha256", "read_contents"]

OWN_METADATA = "resnet_edge"
_INDEX_SUFFIX = ".index.json"
_INDEX = f"model.safetensors{_INDEX_SUFFIX}"
# What Hugging Face writes into a directory, best first.
_DIRECTORY = ("model.safetensors", _INDEX, "pytorch_model.bin")
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
_LARGEST_JSON = 1 << 24  # bytes
_MAX_WRAPPERS = 4
_AVERAGED = ("state_dict_ema", "model_ema", "params_ema", "ema")
_WRAPPERS = (
    *_AVERAGED, "state_dict", "model_state_dict", "model_state", "model", "net", "network",
    "module", "params",
)  # fmt: skip
_KNOWN_MAGICS = {
    b"\x89HDF": ("a Keras (HDF5) file", "convert the model to PyTorch, or to ONNX for build"),
    b"GGUF": ("a GGUF file", "it holds a language model"),
    b"\x08": ("an ONNX file", "it needs no export: resnet-edge build FILE.onnx …"),
    b"\x1f\x8b": ("a gzip archive", "unpack it and pass the checkpoint inside"),
    b"<": ("a web page", "the download failed; fetch the file itself"),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file itself: git lfs pull"),
}


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        tensors: By the names they were saved under.
        sha256: Hash of the file, or of all files that were read.
        source: Container and wrappers, for people.
        own: What ``save_checkpoint`` recorded, if it made the file.
        config: ``config.json`` of a directory.
        preprocessor: ``preprocessor_config.json`` of a directory.
        training: Plain values that the training loop saved around the weights.
        notes: What was chosen.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    source: str
    own: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_contents(path: Path) -> Contents:
    """Read a ``.safetensors`` file, a ``torch.save`` file, an index of shards or a directory.

    Raises:
        CheckpointError: It is missing, unsafe, truncated or of another kind.
    """
    if path.is_dir():
        return _read_directory(path)
    _require_file(path)
    if path.name.endswith(_INDEX_SUFFIX):
        return _read_shards(path)
    with path.open("rb") as stream:
        start = b"\x08" if path.suffix == ".onnx" else stream.read(32)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return _read_torch(path)
    known = next((v for magic, v in _KNOWN_MAGICS.items() if start.startswith(magic)), None)
    if known is not None:
        raise CheckpointError(f"{path} is {known[0]}, not a checkpoint", hint=known[1])
    raise CheckpointError(
        f"{path} is neither a safetensors nor a PyTorch file",
        hint="the file is truncated or of another kind; download or save it again",
    )


def content_sha256(path: Path) -> str:
    """Return the hash that `read_contents` gives, without loading a tensor.

    Raises:
        CheckpointError: It is missing, or lacks a file that belongs to it.
    """
    if path.is_dir():
        weights = _weights_in(path)
        return _directory_sha256(path, weights.name, content_sha256(weights))
    if not path.name.endswith(_INDEX_SUFFIX):
        return _file_sha256(path)
    _require_file(path)
    shards = set(_weight_map(path).values())
    return sha256_json({name: _file_sha256(path.parent / name) for name in shards})


def _file_sha256(path: Path) -> str:
    _require_file(path)
    return sha256_file(path)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}", hint="check the path")


def _weights_in(folder: Path) -> Path:
    """Return the file that holds, or lists, the weights in a directory."""
    found = next((folder / name for name in _DIRECTORY if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{folder} is a directory without a checkpoint in it",
            hint=f"pass the file itself; directories need one of {', '.join(_DIRECTORY)}",
        )
    return found


def _directory_sha256(folder: Path, weights: str, weights_sha256: str) -> str:
    described = {p.name: sha256_file(p) for p in map(folder.joinpath, _DESCRIPTIONS) if p.is_file()}
    return sha256_json({**described, weights: weights_sha256})


def _read_directory(folder: Path) -> Contents:
    found = _weights_in(folder)
    weights = read_contents(found)
    config, preprocessor = (
        _read_json(p) if p.is_file() else {} for p in map(folder.joinpath, _DESCRIPTIONS)
    )
    return Contents(
        tensors=weights.tensors,
        sha256=_directory_sha256(folder, found.name, weights.sha256),
        source=f"directory with {found.name}",
        own=weights.own,
        config=config,
        preprocessor=preprocessor,
        training=weights.training,
        notes=weights.notes,
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file beside an index that holds each tensor, by the tensor's name."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} lists no weights", hint="save the model again")
    names = {str(key): str(name) for key, name in weight_map.items()}
    for name in sorted(set(names.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} refers to {name!r}, which is not a file beside it")
    return names


def _read_shards(index: Path) -> Contents:
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    shards = {name: _read_safetensors(index.parent / name) for name in names}
    absent = [k for k, name in weight_map.items() if k not in shards[name].tensors]
    if absent:
        raise CheckpointError(
            f"{index} promises {absent[0]}, which {weight_map[absent[0]]} does not hold",
            hint="a shard belongs to another checkpoint; download or save all of them again",
        )
    return Contents(
        tensors={k: shards[name].tensors[k] for k, name in weight_map.items()},
        sha256=sha256_json({name: shard.sha256 for name, shard in shards.items()}),
        source=f"{len(names)} safetensors shards",
    )


def _read_safetensors(path: Path) -> Contents:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            text = (stream.metadata() or {}).get(OWN_METADATA)
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        own = json.loads(text) if text else {}
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file: {error}",
            hint="the file is truncated or of another kind; download or save it again",
        ) from error
    if not isinstance(own, dict):
        raise CheckpointError(f"{path} has malformed metadata")
    notes = []
    if not own and path.name in _DIRECTORY and (path.parent / "config.json").is_file():
        notes.append(f"pass {path.parent} to read the config.json beside the weights too")
    source = "resnet-edge" if own else "safetensors"
    return Contents(tensors, sha256_file(path), source, own=own, notes=tuple(notes))


def _read_torch(path: Path) -> Contents:
    import torch

    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict",
            hint="save model.state_dict() instead of the model",
        )
    keys, found = next(_state_dicts(content), ((), content))
    notes = []
    if averaged := [key for key in keys if key in _AVERAGED]:
        left = [k for k in content if k in _WRAPPERS and k not in averaged]
        notes.append(
            f"the averaged (EMA) weights {averaged[0]!r} are taken"
            + (f", not {', '.join(map(repr, left))}" if left else "")
        )
    return Contents(
        tensors={str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)},
        sha256=sha256_file(path),
        source="PyTorch file" + "".join(f"[{key!r}]" for key in keys),
        training={} if found is content else {str(k): v for k, v in content.items()},
        notes=tuple(notes),
    )


def _state_dicts(
    content: Mapping[Any, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield the state dicts inside what a training loop saved, those of ResNets first."""
    if holds_resnet(map(str, content)):
        yield keys, content
        return
    inner = [(k, content[k]) for k in _WRAPPERS if isinstance(content.get(k), dict)]
    if len(keys) < _MAX_WRAPPERS:
        for key, value in inner:
            yield from _state_dicts(value, (*keys, key))
    if not keys and inner:
        yield (inner[0][0],), inner[0][1]  # no ResNet anywhere; for the message


def _read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object.

    Raises:
        CheckpointError: It is too large, malformed, or not an object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise CheckpointError(f"{path} is too large to be a description of a model")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON: {error}", hint="download or save the model again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value
