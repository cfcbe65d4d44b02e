"""The named variants: ``resnet18`` … ``resnet152``, ``resnet20`` … ``resnet110``, ``plainN``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from resnet_edge.models.resnet import ResNet, ResNetConfig, Shortcut

__all__ = ["ARCHITECTURES", "architecture", "create"]

# Table 1 of the paper: block and blocks per stage.
_IMAGENET = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
# Section 4.2: depth 6n+2, three stages of n blocks.
_SMALL = (20, 32, 44, 56, 110)

ARCHITECTURES: tuple[str, ...] = tuple(
    f"{kind}{depth}" for kind in ("resnet", "plain") for depth in (*_IMAGENET, *_SMALL)
)


def architecture(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    width: float = 1.0,
    shortcut: Shortcut | None = None,
) -> ResNetConfig:
    """Return the configuration of a named variant.

    Args:
        name: One of ``ARCHITECTURES``.
        num_classes: Default 1000 for the ImageNet layout, 10 for the small one.
        in_channels: Channels of the input image.
        width: Multiplier on the channels of every stage.
        shortcut: Option A, B or C; default A for the small layout, B for ImageNet's.

    Raises:
        ConfigError: The name is unknown, a stage is left without a channel, or a plain network is
            to have shortcuts.
    """
    from resnet_edge.models.resnet import ResNetConfig

    if name not in ARCHITECTURES:
        raise ConfigError(
            f"unknown architecture {name!r}", hint=f"choose one of {', '.join(ARCHITECTURES)}"
        )
    residual = name.startswith("resnet")
    if shortcut is not None and not residual:
        raise ConfigError(
            f"{name} has no shortcuts", hint=f"choose res{name.replace('plain', 'net')}"
        )
    depth = int(name.removeprefix("resnet").removeprefix("plain"))
    if depth in _IMAGENET:
        block, layers = _IMAGENET[depth]
        config = ResNetConfig(
            block="basic" if block == "basic" else "bottleneck",
            layers=layers,
            widths=(64, 128, 256, 512),
            stem="imagenet",
            num_classes=1000,
        )
    else:
        config = ResNetConfig(
            block="basic",
            layers=((depth - 2) // 6,) * 3,
            widths=(16, 32, 64),
            stem="small",
            shortcut="A",
            num_classes=10,
        )
    widths = tuple(round(channels * width) for channels in config.widths)
    if min(widths) < 1:
        raise ConfigError(f"width {width} leaves {name} without channels", hint="choose a larger")
    return replace(
        config,
        widths=widths,
        shortcut=shortcut or config.shortcut,
        residual=residual,
        in_channels=in_channels,
        num_classes=config.num_classes if num_classes is None else num_classes,
    )


def create(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    width: float = 1.0,
    shortcut: Shortcut | None = None,
) -> ResNet:
    """Return a freshly initialised network of a named variant; see `architecture`."""
    from resnet_edge.models.resnet import ResNet

    config = architecture(
        name, num_classes=num_classes, in_channels=in_channels, width=width, shortcut=shortcut
    )
    return ResNet(config)
