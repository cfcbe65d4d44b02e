"""Checkpoints: read safely, identify the network, load it exactly, write our own.

A checkpoint is hostile until it has been read with ``weights_only=True`` or as safetensors and
every tensor has been checked against the network it claims to be.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from resnet_edge.artifacts import atomic_path, sha256_file
from resnet_edge.errors import CheckpointError, ConfigError
from resnet_edge.imaging import FASHION_MNIST, IMAGENET, ImageSpec
from resnet_edge.models.zoo import ARCHITECTURES, architecture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from resnet_edge.models.resnet import ResNet, ResNetConfig

__all__ = ["Checkpoint", "load_model", "read_checkpoint", "save_checkpoint"]

_METADATA_KEY = "resnet_edge"
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
    raw, metadata, source_format = _read_tensors(path)
    state_dict, notes = _strip_prefix(path, raw)
    config, name = _identify(path, state_dict, metadata, arch, notes)
    if stride_in_1x1 is not None:
        config = replace(config, stride_in_1x1=stride_in_1x1)
    elif config.block == "bottleneck" and "config" not in metadata:
        notes.append("v1.5 assumed (stride in the 3x3); pass --stride-in-1x1 for v1")
    _check_values(path, state_dict)
    return Checkpoint(
        path=path,
        sha256=sha256_file(path),
        architecture=name,
        config=config,
        state_dict=state_dict,
        image_spec=_image_spec(metadata, config, notes),
        labels=_labels(path, metadata, config),
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
    from safetensors.torch import save_file

    metadata = {
        "schema": 1,
        "architecture": name,
        "config": asdict(model.config),
        "image_spec": image_spec.to_json(),
        "labels": None if labels is None else list(labels),
        "provenance": dict(provenance),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"format": "pt", _METADATA_KEY: json.dumps(metadata)})


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
        if "weights_only" in text.lower() or "Unsupported global" in text:
            raise CheckpointError(
                f"{path} wants to run code when it is loaded; it was not read",
                hint="if you trust it, load it where it was made and save only the weights: "
                "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
            ) from error
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint: {_first_sentence(text)}",
            hint="the file is truncated or of another kind; download or save it again",
        ) from error
    wrapper = ""
    while isinstance(content, dict) and not any(
        isinstance(v, torch.Tensor) for v in content.values()
    ):
        key = next((k for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
        if key is None:
            break
        content, wrapper = content[key], f"{wrapper}[{key!r}]"
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict",
            hint="save model.state_dict() instead of the model",
        )
    tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    return tensors, {}, f"PyTorch state dict{wrapper}"


def _first_sentence(text: str) -> str:
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
    anchor = "layer1.0.conv1.weight"
    prefix = next((k[: -len(anchor)] for k in raw if k.endswith(anchor)), None)
    if prefix is None:
        raise CheckpointError(
            f"{path} is not a ResNet: it has no {anchor}",
            hint=f"it holds {', '.join(sorted(raw)[:5]) or 'no tensors'}",
        )
    notes = [f"prefix {prefix!r} stripped"] if prefix else []
    dropped = [k for k in raw if not k.startswith(prefix)]
    if dropped:
        notes.append(f"{len(dropped)} tensors outside {prefix!r} ignored: {', '.join(dropped[:5])}")
    kept = {
        k.removeprefix(prefix): v.float() if v.is_floating_point() else v
        for k, v in raw.items()
        if k.startswith(prefix)
    }
    return kept, notes


def _identify(
    path: Path,
    state_dict: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    arch: str,
    notes: list[str],
) -> tuple[ResNetConfig, str]:
    for key in ("conv1.weight", "fc.weight"):
        if key not in state_dict:
            raise CheckpointError(f"{path} is not a complete ResNet: it has no {key}")
    if state_dict["conv1.weight"].ndim != 4 or state_dict["fc.weight"].ndim != 2:
        raise CheckpointError(
            f"{path}: conv1.weight or fc.weight has the wrong number of dimensions"
        )
    classes = state_dict["fc.weight"].shape[0]
    channels = state_dict["conv1.weight"].shape[1]
    if arch != "auto":
        return architecture(arch, num_classes=classes, in_channels=channels), arch
    if "config" in metadata:
        return _recorded_config(path, metadata), str(metadata.get("architecture", "resnet"))
    return _config_from_shapes(path, state_dict, notes)


def _recorded_config(path: Path, metadata: Mapping[str, Any]) -> ResNetConfig:
    from resnet_edge.models.resnet import ResNetConfig

    try:
        return ResNetConfig.from_json(metadata["config"])
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} has malformed metadata: {error}") from error


def _config_from_shapes(
    path: Path, state_dict: Mapping[str, Tensor], notes: list[str]
) -> tuple[ResNetConfig, str]:
    from resnet_edge.models.resnet import ResNetConfig

    blocks: dict[int, set[int]] = {}
    for key in state_dict:
        if match := re.match(r"layer(\d+)\.(\d+)\.conv1\.weight$", key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    if sorted(blocks) != list(range(1, len(blocks) + 1)) or any(
        sorted(b) != list(range(len(b))) for b in blocks.values()
    ):
        raise CheckpointError(f"{path} is not a complete ResNet: stages or blocks are missing")
    projections = sum(1 for k in state_dict if k.endswith("downsample.0.weight"))
    layers = tuple(len(blocks[i]) for i in sorted(blocks))
    shortcut = "A" if projections == 0 else "C" if projections == sum(layers) else "B"
    if shortcut == "A":
        notes.append(
            "no projection weights: a residual network with option-A shortcuts is assumed; "
            "pass --arch plainN for a plain network"
        )
    config = ResNetConfig(
        block="bottleneck" if "layer1.0.conv3.weight" in state_dict else "basic",
        layers=layers,
        widths=tuple(state_dict[f"layer{i}.0.conv1.weight"].shape[0] for i in sorted(blocks)),
        stem="imagenet" if state_dict["conv1.weight"].shape[-1] == 7 else "small",
        shortcut=cast("Any", shortcut),
        in_channels=state_dict["conv1.weight"].shape[1],
        num_classes=state_dict["fc.weight"].shape[0],
    )
    for name in ARCHITECTURES:
        if config == architecture(
            name, num_classes=config.num_classes, in_channels=config.in_channels
        ):
            return config, name
    return config, f"resnet({config.block}, {'-'.join(map(str, layers))})"


def _check_values(path: Path, state_dict: Mapping[str, Tensor]) -> None:
    for key, tensor in state_dict.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{path}: {key} contains NaN or infinity", hint="the training diverged"
            )


def _image_spec(metadata: Mapping[str, Any], config: ResNetConfig, notes: list[str]) -> ImageSpec:
    if "image_spec" in metadata:
        return ImageSpec.from_json(metadata["image_spec"])
    if config.in_channels == 1:
        default, name = FASHION_MNIST, "28x28 gray, the Fashion-MNIST"
    elif config.stem == "small":
        default = ImageSpec(
            resize=32, crop=(32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
        )
        name = "32x32, the CIFAR-10"
    else:
        default, name = IMAGENET, "resize 256, crop 224, the ImageNet"
    if config.in_channels != default.channels:
        raise ConfigError(
            f"no default preprocessing for a network with {config.in_channels} input channels",
            hint="pass --resize --crop --mean --std --color",
        )
    notes.append(
        f"no preprocessing recorded: {name} default is assumed; "
        "pass --resize --crop --mean --std --color if it was trained otherwise"
    )
    return default


def _labels(
    path: Path, metadata: Mapping[str, Any], config: ResNetConfig
) -> tuple[str, ...] | None:
    labels = metadata.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, list) or len(labels) != config.num_classes:
        raise CheckpointError(f"{path} names {labels!r:.60} for {config.num_classes} classes")
    return tuple(str(label) for label in labels)
