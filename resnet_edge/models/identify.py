"""Find out from names, shapes and metadata which ResNet a state dict holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from resnet_edge.errors import CheckpointError, ConfigError
from resnet_edge.imaging import FASHION_MNIST, IMAGENET, ImageSpec
from resnet_edge.models.zoo import ARCHITECTURES, architecture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from resnet_edge.models.resnet import ResNetConfig

__all__ = ["identify", "image_spec_of", "labels_of"]

_CONV_WEIGHT = re.compile(r"(^|\.)conv[123]\.weight$")


def identify(
    path: Path,
    state_dict: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    arch: str,
    notes: list[str],
) -> tuple[ResNetConfig, str]:
    """Return the network's configuration and its name in the zoo, or a description.

    Args:
        path: Named in messages.
        state_dict: Tensors under torchvision's names.
        metadata: What our own checkpoints record.
        arch: A name that overrides everything, or ``auto``.
        notes: Gets what had to be assumed.

    Raises:
        CheckpointError: It is not a complete ResNet.
    """
    for key in ("conv1.weight", "fc.weight"):
        if key not in state_dict:
            raise CheckpointError(f"{path} is not a complete ResNet: it has no {key}")
    for key, tensor in state_dict.items():
        wanted = 2 if key == "fc.weight" else 4 if _CONV_WEIGHT.search(key) else tensor.ndim
        if tensor.ndim != wanted:
            raise CheckpointError(f"{path}: {key} has the wrong number of dimensions")
    classes = state_dict["fc.weight"].shape[0]
    channels = state_dict["conv1.weight"].shape[1]
    if arch != "auto":
        return architecture(arch, num_classes=classes, in_channels=channels), arch
    if "config" in metadata:
        recorded = _recorded_config(path, metadata)
        found, _ = _config_from_shapes(path, state_dict, [])
        if (recorded.layers, recorded.widths, recorded.in_channels, recorded.num_classes) != (
            found.layers,
            found.widths,
            found.in_channels,
            found.num_classes,
        ):
            raise CheckpointError(f"{path}: the recorded network does not fit the weights")
        return recorded, str(metadata.get("architecture", "resnet"))
    return _config_from_shapes(path, state_dict, notes)


def _recorded_config(path: Path, metadata: Mapping[str, Any]) -> ResNetConfig:
    from resnet_edge.models.resnet import ResNetConfig

    try:
        return ResNetConfig.from_json(metadata["config"])
    except (TypeError, ValueError, KeyError, OverflowError) as error:
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


def image_spec_of(metadata: Mapping[str, Any], config: ResNetConfig, notes: list[str]) -> ImageSpec:
    """Return the recorded preprocessing, or a default that is noted."""
    if "image_spec" in metadata:
        spec = ImageSpec.from_json(metadata["image_spec"])
        if spec.channels != config.in_channels:
            raise ConfigError(
                f"the recorded preprocessing gives {spec.channels} channels, the network takes "
                f"{config.in_channels}"
            )
        return spec
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


def labels_of(
    path: Path, metadata: Mapping[str, Any], config: ResNetConfig
) -> tuple[str, ...] | None:
    """Return the recorded class names, or None.

    Raises:
        CheckpointError: Their number is not the number of classes.
    """
    labels = metadata.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, list) or len(labels) != config.num_classes:
        raise CheckpointError(f"{path} names {labels!r:.60} for {config.num_classes} classes")
    return tuple(str(label) for label in labels)
