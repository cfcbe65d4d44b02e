"""What fixes a network's shape, without PyTorch."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

__all__ = ["ResNetConfig", "Shortcut"]

Shortcut = Literal["A", "B", "C", "D"]
_LISTS = ("layers", "widths", "stem_widths", "se_widths")


@dataclass(frozen=True)
class ResNetConfig:
    """Everything that fixes a network's shape.

    Attributes:
        block: ``basic`` (3x3, 3x3) or ``bottleneck`` (1x1, 3x3, 1x1 with expansion 4).
        layers: Blocks per stage.
        widths: Channels of each stage before expansion.
        stem: ``imagenet`` (7x7/2 and max-pool/2), ``deep`` (three 3x3, the first with stride 2,
            and max-pool/2) or ``small`` (3x3/1).
        shortcut: Where a skip changes shape: ``A`` subsample and zero-pad channels, ``B`` a 1x1
            projection, ``C`` a projection on every skip (section 3.3 of the paper), ``D`` a 2x2
            average pool where the resolution halves, and then a 1x1 projection.
        residual: False gives the plain twin, the same convolutions without skips.
        stride_in_1x1: Where a bottleneck halves the resolution: its first 1x1 (v1, the paper)
            or its 3x3 (v1.5, torchvision and the default).
        in_channels: Channels of the input image.
        num_classes: Size of the classifier; 0 for none, the pooled features come out.
        groups: Groups of a bottleneck's 3x3 convolution (ResNeXt's cardinality).
        base_width: Channels of each group of the 3x3 where ``widths`` is 64.
        stem_widths: Output channels of the stem's convolutions; empty for one of ``widths[0]``.
        se_widths: Squeezed channels per stage; empty without squeeze-and-excitation.
    """

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Literal["imagenet", "deep", "small"]
    shortcut: Shortcut = "B"
    residual: bool = True
    stride_in_1x1: bool = False
    in_channels: int = 3
    num_classes: int = 1000
    groups: int = 1
    base_width: int = 64
    stem_widths: tuple[int, ...] = ()
    se_widths: tuple[int, ...] = ()

    @property
    def features(self) -> int:
        """Channels behind the last stage."""
        return self.widths[-1] * (4 if self.block == "bottleneck" else 1)

    @property
    def outputs(self) -> int:
        """Numbers per image that come out."""
        return self.num_classes or self.features

    @classmethod
    def from_json(cls, value: Any) -> ResNetConfig:
        """Read what ``dataclasses.asdict`` and a trip through JSON made of a configuration.

        Raises:
            ValueError: It is not an object with the keys of a configuration.
            TypeError: A list is not a list of numbers.
        """
        known = {f.name: f.default is MISSING for f in fields(cls)}
        required = {name for name, needed in known.items() if needed}
        if not isinstance(value, dict) or not required <= set(value) <= set(known):
            raise ValueError("not an object with the keys of a ResNetConfig")
        lists = {k: tuple(int(n) for n in value[k]) for k in _LISTS if k in value}
        config = cls(**{**value, **lists})
        choices_known = (
            config.block in ("basic", "bottleneck")
            and config.stem in ("imagenet", "deep", "small")
            and config.shortcut in ("A", "B", "C", "D")
            and isinstance(config.residual, bool)
            and isinstance(config.stride_in_1x1, bool)
        )
        sizes = (
            *config.layers, *config.widths, *config.stem_widths, *config.se_widths,
            config.in_channels, config.groups, config.base_width,
        )  # fmt: skip
        sizes_fit = (
            len(config.layers) == len(config.widths)
            and len(config.se_widths) in (0, len(config.widths))
            and len(config.stem_widths) in ((3,) if config.stem == "deep" else (0, 1))
        )
        positive = all(isinstance(n, int) and n > 0 for n in sizes)
        classes = isinstance(config.num_classes, int) and config.num_classes >= 0
        grouped = config.groups != 1 or config.base_width != 64
        if not (choices_known and sizes_fit and positive and classes) or (
            grouped and config.block == "basic"
        ):
            raise ValueError(f"{config} is not a network")
        return config
