"""What fixes a network's shape, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from resnet_edge.errors import ConfigError
from resnet_edge.schema import decode

__all__ = ["ResNetConfig", "Shortcut"]

Shortcut = Literal["A", "B", "C", "D"]


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
            ValueError: It is not that of a network.
        """
        try:
            config = decode(cls, value, "the network")
        except ConfigError as error:
            raise ValueError(error.message) from error
        sizes = (
            *config.layers, *config.widths, *config.stem_widths, *config.se_widths,
            config.in_channels, config.groups, config.base_width,
        )  # fmt: skip
        sizes_fit = (
            len(config.layers) == len(config.widths)
            and len(config.se_widths) in (0, len(config.widths))
            and len(config.stem_widths) in ((3,) if config.stem == "deep" else (0, 1))
        )
        positive = all(n > 0 for n in sizes)
        grouped = config.groups != 1 or config.base_width != 64
        if not (sizes_fit and positive and config.num_classes >= 0) or (
            grouped and config.block == "basic"
        ):
            raise ValueError(f"{config} is not a network")
        return config
