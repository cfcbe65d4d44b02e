"""The named variants, as torchvision and timm name them: settings of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import ConfigError
from resnet_edge.models.resnet_config import ResNetConfig, Shortcut

if TYPE_CHECKING:
    from resnet_edge.models.resnet import ResNet

__all__ = ["ARCHITECTURES", "architecture", "create"]

# Table 1 of the paper: block and blocks per stage; 26 and 200 are timm's and the authors' later.
_IMAGENET = {
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
_PLAIN = (18, 34, 50, 101, 152)
# Section 4.2: depth 6n+2, three stages of n blocks.
_SMALL = (20, 32, 44, 56, 110)
# Groups and channels per group at width 64.
_RESNEXT = {
    "resnext50_32x4d": (50, 32, 4),
    "resnext101_32x4d": (101, 32, 4),
    "resnext101_32x8d": (101, 32, 8),
    "resnext101_64x4d": (101, 64, 4),
}
_WIDE = {"wide_resnet50_2": (50, 1, 128), "wide_resnet101_2": (101, 1, 128)}
_SE = (18, 34, 50, 101, 152)
_SE_RESNEXT = ("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d")


def _variants() -> dict[str, tuple[int, Mapping[str, Any]]]:
    """Return depth and what differs from the plain table, for every name."""
    residual: dict[str, tuple[int, Mapping[str, Any]]] = {
        f"resnet{d}": (d, {}) for d in (*_IMAGENET, *_SMALL)
    }
    plain = {f"plain{d}": (d, {"residual": False}) for d in (*_PLAIN, *_SMALL)}
    grouped = {
        name: (depth, {"groups": groups, "base_width": base})
        for name, (depth, groups, base) in (_RESNEXT | _WIDE).items()
    }
    deep = {"stem": "deep", "stem_widths": (32, 32, 64), "shortcut": "D"}
    stems = {f"resnet{d}d": (d, deep) for d in _IMAGENET}
    gated = {f"seresnet{d}": (d, _squeezed(d)) for d in _SE} | {
        f"se{name}": (grouped[name][0], grouped[name][1] | _squeezed(grouped[name][0]))
        for name in _SE_RESNEXT
    }
    return {**residual, **plain, **grouped, **stems, **gated}


def _squeezed(depth: int) -> dict[str, Any]:
    """Return a sixteenth of each stage's channels, at least 8."""
    expansion = 4 if _IMAGENET[depth][0] == "bottleneck" else 1
    return {"se_widths": tuple(max(8, w * expansion // 16) for w in (64, 128, 256, 512))}


_VARIANTS = _variants()
ARCHITECTURES: tuple[str, ...] = tuple(_VARIANTS)


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
        width: Multiplier on the channels of every layer.
        shortcut: An option in place of the variant's own.

    Raises:
        ConfigError: The name is unknown, a layer is left without a channel, or a plain network is
            to have shortcuts.
    """
    if name not in _VARIANTS:
        raise ConfigError(
            f"unknown architecture {name!r}", hint=f"choose one of {', '.join(ARCHITECTURES)}"
        )
    depth, changes = _VARIANTS[name]
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
    config = replace(
        config,
        in_channels=in_channels,
        num_classes=config.num_classes if num_classes is None else num_classes,
        **changes,
    )
    if shortcut is not None:
        if not config.residual:
            hint = f"choose {name.replace('plain', 'resnet')}"
            raise ConfigError(f"{name} has no shortcuts", hint=hint)
        config = replace(config, shortcut=shortcut)
    return config if width == 1.0 else _scaled(config, name, width)


def _scaled(config: ResNetConfig, name: str, width: float) -> ResNetConfig:
    widths, stem, squeezed = (
        tuple(round(channels * width) for channels in layers)
        for layers in (config.widths, config.stem_widths, config.se_widths)
    )
    if min(*widths, *stem, *squeezed) < 1 or widths[0] * config.base_width < 64:
        raise ConfigError(f"width {width} leaves {name} without channels", hint="choose a larger")
    return replace(config, widths=widths, stem_widths=stem, se_widths=squeezed)


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
