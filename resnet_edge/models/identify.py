"""Find out from names and shapes which ResNet a state dict holds, and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from resnet_edge.errors import CheckpointError
from resnet_edge.models.resnet_config import ResNetConfig, Shortcut
from resnet_edge.models.zoo import ARCHITECTURES, architecture

__all__ = ["Identified", "Mismatch", "compare", "describe", "identify", "nearest"]

Shapes = dict[str, tuple[int, ...]]
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.conv1\.weight$")
_SHOWN = 10
_CANDIDATES = 8


@dataclass(frozen=True)
class Identified:
    """A network, and what gave it away.

    Attributes:
        config: What the network is built from.
        name: In the zoo, or a description where the zoo has none.
        evidence: What was seen and what follows from it.
        assumed: What names and shapes cannot tell.
    """

    config: ResNetConfig
    name: str
    evidence: tuple[str, ...]
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class _Stem:
    """How a network starts, and what shows it."""

    kind: Literal["imagenet", "deep", "small"]
    widths: tuple[int, ...]
    in_channels: int
    evidence: str


@dataclass(frozen=True)
class _Groups:
    """How the 3x3 of a bottleneck is divided, and what shows it where it is unusual."""

    count: int
    base_width: int
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Skips:
    """What is on the skip connections, what shows it, and what nothing shows."""

    option: Shortcut
    evidence: str
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from a network.

    Attributes:
        missing: Names that the network has and the state dict lacks.
        unexpected: Names that the network does not have.
        shapes: Names with another shape, described.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def distance(self) -> int:
        """Number of names that differ."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def __str__(self) -> str:
        groups = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("wrong shape", self.shapes),
        )
        parts, left = [], _SHOWN
        for label, names in groups:
            if names and left:
                more = " …" if len(names) > left else ""
                parts.append(f"{label} {', '.join(names[:left])}{more}")
                left -= min(left, len(names))
        return "; ".join(parts)


def identify(shapes: Shapes) -> Identified:
    """Return the network that names and shapes describe.

    Args:
        shapes: By our names; without ``fc.weight`` it is a feature extractor.

    Raises:
        CheckpointError: A part that every such network has is missing or makes no sense; the
            message has no file name yet.
    """
    layers = _layers(shapes)
    bottleneck = "layer1.0.conv3.weight" in shapes
    blocks = "layer1.0.conv3 → bottleneck blocks" if bottleneck else "basic blocks"
    stem = _stem(shapes)
    expansion = 4 if bottleneck else 1
    last = "conv3" if bottleneck else "conv2"
    widths = tuple(
        _shape(shapes, f"layer{i + 1}.0.{last}.weight", 4)[0] // expansion
        for i in range(len(layers))
    )
    if 0 in widths:
        raise CheckpointError(f"layer1.0.{last}.weight has too few channels for a bottleneck")
    groups = _groups(shapes, widths[0]) if bottleneck else _Groups(1, 64)
    skips = _skips(shapes)
    se_widths = _se_widths(shapes, len(layers))
    config = ResNetConfig(
        block="bottleneck" if bottleneck else "basic",
        layers=layers,
        widths=widths,
        stem=stem.kind,
        shortcut=skips.option,
        in_channels=stem.in_channels,
        num_classes=_shape(shapes, "fc.weight", 2)[0] if "fc.weight" in shapes else 0,
        groups=groups.count,
        base_width=groups.base_width,
        stem_widths=() if stem.widths == widths[:1] else stem.widths,
        se_widths=se_widths,
    )
    evidence = (
        f"{blocks}, {'-'.join(map(str, layers))}",
        stem.evidence,
        *groups.evidence,
        skips.evidence,
        *(("se.fc1 and se.fc2 → squeeze-and-excitation",) if se_widths else ()),
    )
    return Identified(config, name_of(config), evidence, skips.assumed)


def name_of(config: ResNetConfig) -> str:
    """Return the zoo's name of a configuration, or a description."""
    return next(
        (
            name
            for name in ARCHITECTURES
            if config
            == replace(
                architecture(name, num_classes=config.num_classes, in_channels=config.in_channels),
                stride_in_1x1=config.stride_in_1x1,
            )
        ),
        f"{describe(config)[0]}({config.block}, {'-'.join(map(str, config.layers))})",
    )


def describe(config: ResNetConfig) -> tuple[str, int]:
    """Return family and depth; the depth counts weighted layers on the main path."""
    wide = config.base_width > 64 and config.groups == 1
    family = "resnext" if config.groups > 1 else "wide_resnet" if wide else "resnet"
    if not config.residual:
        family = "plain"
    if config.se_widths:
        family = f"se{family}"
    if config.stem == "deep" or config.shortcut == "D":
        family = f"{family}-d"
    per_block = 3 if config.block == "bottleneck" else 2
    return family, per_block * sum(config.layers) + 2


def compare(config: ResNetConfig, shapes: Shapes) -> Mismatch:
    """Return how names and shapes differ from those of a network."""
    wanted = _shapes_of(config)
    counters = "num_batches_tracked"  # written by some versions of PyTorch only
    return Mismatch(
        missing=tuple(k for k in wanted if k not in shapes and not k.endswith(counters)),
        unexpected=tuple(k for k in shapes if k not in wanted),
        shapes=tuple(
            f"{k}: {shapes[k]} instead of {shape}"
            for k, shape in wanted.items()
            if k in shapes and shapes[k] != shape
        ),
    )


def nearest(shapes: Shapes) -> tuple[str, int]:
    """Return the named architecture that differs in the fewest names, and in how many.

    A block more or less outweighs everything else, so only those with the most similar blocks are
    built and compared.
    """
    classes = shapes.get("fc.weight", (1000,))[:1] or (1000,)
    stem = shapes.get("conv1.weight") or shapes.get("conv1.0.weight") or ()
    channels = stem[1] if len(stem) == 4 else 3
    configs = {
        name: architecture(name, num_classes=max(1, classes[0]), in_channels=max(1, channels))
        for name in ARCHITECTURES
    }
    blocks = {(int(m[1]), int(m[2])) for m in map(_BLOCK.match, shapes) if m}
    bottleneck = "layer1.0.conv3.weight" in shapes

    def unlike(name: str) -> tuple[int, bool]:
        config = configs[name]
        own = {(i + 1, j) for i, count in enumerate(config.layers) for j in range(count)}
        return len(own ^ blocks), (config.block == "bottleneck") != bottleneck

    candidates = sorted(configs, key=unlike)[:_CANDIDATES]
    distances = {name: compare(configs[name], shapes).distance for name in candidates}
    return min(distances.items(), key=lambda item: item[1])


def _shapes_of(config: ResNetConfig) -> Shapes:
    from resnet_edge.models.resnet import without_weights

    return {k: tuple(v.shape) for k, v in without_weights(config).state_dict().items()}


def _shape(shapes: Shapes, key: str, dimensions: int) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(f"it has no {key}")
    if len(shapes[key]) != dimensions or 0 in shapes[key]:
        raise CheckpointError(f"{key} has shape {shapes[key]}: the wrong number of dimensions")
    return shapes[key]


def _layers(shapes: Shapes) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for key in shapes:
        if match := _BLOCK.match(key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    complete = sorted(blocks) == list(range(1, len(blocks) + 1))
    if not blocks or not complete or any(sorted(b) != list(range(len(b))) for b in blocks.values()):
        raise CheckpointError("stages or blocks are missing")
    return tuple(len(blocks[i]) for i in sorted(blocks))


def _stem(shapes: Shapes) -> _Stem:
    if "conv1.0.weight" in shapes:
        found = [_shape(shapes, f"conv1.{i}.weight", 4) for i in (0, 3, 6)]
        seen = "conv1.0, conv1.3, conv1.6 → deep stem of three 3x3 convolutions"
        return _Stem("deep", tuple(s[0] for s in found), found[0][1], seen)
    shape = _shape(shapes, "conv1.weight", 4)
    kernel = shape[2:]
    if kernel == (7, 7):
        seen = "7x7 first convolution → ImageNet stem, stride 2 and max-pool"
        return _Stem("imagenet", shape[:1], shape[1], seen)
    if kernel == (3, 3):
        seen = "3x3 first convolution → small-image stem, stride 1, no max-pool"
        return _Stem("small", shape[:1], shape[1], seen)
    raise CheckpointError(f"conv1.weight is {kernel[0]}x{kernel[1]}; a ResNet starts 7x7 or 3x3")


def _groups(shapes: Shapes, width: int) -> _Groups:
    inner, per_group = _shape(shapes, "layer1.0.conv2.weight", 4)[:2]
    groups = max(1, inner // per_group)
    seen: tuple[str, ...] = ()
    if groups > 1:
        seen = (f"layer1.0.conv2 sees {per_group} of {inner} channels → {groups} groups",)
    elif inner != width:
        seen = (f"layer1.0.conv2 has {inner} channels instead of {width} → wide",)
    return _Groups(groups, max(1, round(inner * 64 / (groups * width))), seen)


def _skips(shapes: Shapes) -> _Skips:
    if any(len(s) == 4 for k, s in shapes.items() if k.endswith(".downsample.1.weight")):
        return _Skips("D", "downsample.1 is a convolution → average pool before the projection (D)")
    projected = {k for k in shapes if k.endswith(".downsample.0.weight")}
    if not projected:
        assumed = (
            "no projection weights: a residual network with option-A shortcuts is assumed; "
            "pass --arch plainN for a plain network"
        )
        return _Skips("A", "no projections → parameter-free shortcuts (A)", (assumed,))
    if any(k.split(".")[1] != "0" for k in projected):
        return _Skips("C", "projections inside stages → a projection on every skip (C)")
    # A first stage of unchanged width is projected under option C alone.
    unchanged = shapes.get("layer1.0.conv1.weight", (0, 0))[1] == _last_width(shapes)
    if "layer1.0.downsample.0.weight" in projected and unchanged:
        return _Skips("C", "a projection where the shape does not change → every skip has one (C)")
    return _Skips("B", f"{len(projected)} projections → where the shape changes (B)")


def _last_width(shapes: Shapes) -> int:
    last = "conv3" if "layer1.0.conv3.weight" in shapes else "conv2"
    return _shape(shapes, f"layer1.0.{last}.weight", 4)[0]


def _se_widths(shapes: Shapes, stages: int) -> tuple[int, ...]:
    if "layer1.0.se.fc1.weight" not in shapes:
        return ()
    return tuple(_shape(shapes, f"layer{i + 1}.0.se.fc1.weight", 4)[0] for i in range(stages))
