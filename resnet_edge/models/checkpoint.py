"""Checkpoints: read safely, identify the network, load it exactly, write our own.

A checkpoint is hostile until it has been read with ``weights_only=True`` or as safetensors and
every tensor has been checked against the network it claims to be.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from resnet_edge.artifacts import sha256_file, write_bytes
from resnet_edge.errors import CheckpointError
from resnet_edge.models.identify import identify, image_spec_of, labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from resnet_edge.imaging import ImageSpec
    from resnet_edge.models.resnet import ResNet, ResNetConfig

__all__ = ["Checkpoint", "load_model", "read_checkpoint", "save_checkpoint"]

_METADATA_KEY = "resnet_edge"
_ANCHOR = "layer1.0.conv1.weight"  # every ResNet has it, whatever stands in front
_PICKLE = b"\x80"  # first byte of every pickle since protocol 2
_MAX_WRAPPERS = 4
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, identified and checked.

    Attributes:
        path: The file.
        sha256: Hash of the file.
        architecture: Name in the zoo, or a description where the zoo has none.
        config: What the network is built from.
        state_dict: Parameters and buffers under torchvision's names, float32.
        image_spec: Preprocessing the network was trained with.
        labels: Class names, or None.
        source_format: Where it comes from, for people.
        notes: What was assumed, renamed or stripped.
    """

    path: Path
    sha256: str
    architecture: str
    config: ResNetConfig
    state_dict: Mapping[str, Tensor]
    image_spec: ImageSpec
    labels: tuple[str, ...] | None
    source_format: str
    notes: tuple[str, ...]


def read_checkpoint(
    path: Path, *, arch: str = "auto", stride_in_1x1: bool | None = None
) -> Checkpoint:
    """Read a checkpoint and find out which ResNet it holds.

    Args:
        path: A ``.safetensors`` or PyTorch file.
        arch: A name of the zoo that overrides what metadata and shapes say; ``auto`` trusts them.
        stride_in_1x1: Bottleneck stride placement (v1 if True); default as recorded, else v1.5.

    Raises:
        CheckpointError: The file is missing, unsafe, truncated, or not a ResNet.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}", hint="check the path")
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path} is an ONNX file, not a checkpoint",
            hint=f"it needs no export: resnet-edge build {path} …",
        )
    raw, metadata, source_format = _read_tensors(path)
    state_dict, notes = _strip_prefix(path, raw)
    config, name = identify(path, state_dict, metadata, arch, notes)
    if stride_in_1x1 is not None:
        config = replace(config, stride_in_1x1=stride_in_1x1)
    elif config.block == "bottleneck" and "config" not in metadata:
        notes.append("v1.5 assumed (stride in the 3x3); pass --stride-in-1x1 for v1")
    return Checkpoint(
        path=path,
        sha256=sha256_file(path),
        architecture=name,
        config=config,
        state_dict=state_dict,
        image_spec=image_spec_of(metadata, config, notes),
        labels=labels_of(path, metadata, config),
        source_format=source_format,
        notes=tuple(notes),
    )


def load_model(checkpoint: Checkpoint) -> ResNet:
    """Build the network and load the weights strictly, in evaluation mode.

    Raises:
        CheckpointError: Keys or shapes do not fit.
    """
    from resnet_edge.models.resnet import ResNet

    model = ResNet(checkpoint.config)
    wanted = model.state_dict()
    given = dict(checkpoint.state_dict)
    for key, tensor in wanted.items():
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, tensor)
    missing = [k for k in wanted if k not in given]
    unexpected = [k for k in given if k not in wanted]
    shapes = [
        f"{k}: {tuple(given[k].shape)} instead of {tuple(t.shape)}"
        for k, t in wanted.items()
        if k in given and given[k].shape != t.shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{label} {', '.join(keys[:10])}{' …' if len(keys) > 10 else ''}"
            for label, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("wrong shape", shapes),
            )
            if keys
        ]
        raise CheckpointError(
            f"{checkpoint.path} is not a {checkpoint.architecture}: {'; '.join(parts)}",
            hint="pass the right --arch, or convert the checkpoint to torchvision's names",
        )
    model.load_state_dict(given)
    return model.eval()


def save_checkpoint(
    path: Path,
    model: ResNet,
    *,
    name: str,
    image_spec: ImageSpec,
    labels: tuple[str, ...] | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write weights as safetensors with everything needed to use them in the metadata."""
    from safetensors.torch import save

    metadata = {
        "schema": 1,
        "architecture": name,
        "config": asdict(model.config),
        "image_spec": image_spec.to_json(),
        "labels": None if labels is None else list(labels),
        "provenance": dict(provenance),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_bytes(path, save(tensors, {"format": "pt", _METADATA_KEY: json.dumps(metadata)}))


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    import torch

    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the outcome says it all
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        foreign_pickle = "Unsupported operand" in text and path.read_bytes()[:1] == _PICKLE
        if "unsupported global" in text.lower() or foreign_pickle:
            raise CheckpointError(
                f"{path} wants to run code when it is loaded; it was not read",
                hint="if you trust it, load it where it was made and save only the weights: "
                "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
            ) from error
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint: {_first_sentence(text)}",
            hint="the file is truncated or of another kind; download or save it again",
        ) from error
    content, wrapper = _unwrap(content)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict",
            hint="save model.state_dict() instead of the model",
        )
    tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    return tensors, {}, f"PyTorch state dict{wrapper}"


def _unwrap(content: Any) -> tuple[Any, str]:
    """Go down to the state dict inside what training scripts save."""
    wrapper = ""
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(content, dict) or any(str(k).endswith(_ANCHOR) for k in content):
            break
        key = next((k for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
        if key is None:
            break
        content, wrapper = content[key], f"{wrapper}[{key!r}]"
    return content, wrapper


def _first_sentence(text: str) -> str:
    """Return torch's reason without its advice, which would be to load it unsafely."""
    if text.startswith("Weights only load failed"):
        return "it is not what torch.save writes"
    return text.partition("\n")[0].partition(". ")[0]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            own = (stream.metadata() or {}).get(_METADATA_KEY)
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        metadata = json.loads(own) if own else {}
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file: {error}",
            hint="the file is truncated or of another kind; download or save it again",
        ) from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} has malformed metadata")
    return tensors, metadata, "resnet-edge" if own else "safetensors state dict"


def _strip_prefix(path: Path, raw: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Drop what wrapper modules put in front of every name, and make weights float32."""
    prefix = next((k.removesuffix(_ANCHOR) for k in raw if k.endswith(_ANCHOR)), None)
    if prefix is None:
        raise CheckpointError(
            f"{path} is not a ResNet: it has no {_ANCHOR}",
            hint=f"it holds {', '.join(sorted(raw)[:5]) or 'no tensors'}",
        )
    notes = [f"prefix {prefix!r} stripped"] if prefix else []
    dropped = [k for k in raw if not k.startswith(prefix)]
    if dropped:
        notes.append(f"{len(dropped)} tensors outside {prefix!r} ignored: {', '.join(dropped[:5])}")
    kept = {k.removeprefix(prefix): v for k, v in raw.items() if k.startswith(prefix)}
    _check_tensors(path, kept)
    return {k: v.float() if v.is_floating_point() else v for k, v in kept.items()}, notes


def _check_tensors(path: Path, state_dict: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not plain weights, before anything is computed from them."""
    import torch

    for key, tensor in state_dict.items():
        integer = key.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{path}: {key} is not a plain dense tensor")
        if not integer and not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {key} holds {tensor.dtype}, not floating-point weights",
                hint="quantized checkpoints cannot be exported; start from the float model",
            )
        # A tensor can claim any shape over a small storage; a real weight fills its storage.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {key} claims shape {tuple(tensor.shape)} without data")
        if not integer and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{path}: {key} contains NaN or infinity", hint="the training diverged"
            )
