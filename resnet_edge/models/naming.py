"""What other toolkits call the parts of a ResNet, and what we call them.

Our names are torchvision's, with timm's where torchvision has none: ``conv1.0`` for a deep stem,
``downsample.1`` behind an average pool, ``se.fc1`` and ``se.fc2`` for squeeze-and-excitation.
Every mapping is data: a new source is a new row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

__all__ = ["Naming", "canonical_names", "find_naming", "holds_resnet", "other_network"]

Rule = tuple[str, str]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Dialect:
    """How one source names the parts.

    Attributes:
        source: Whose names these are.
        anchor: Name, as a regular expression, of the first convolution of the first block; what
            stands in front of it is a wrapper's prefix.
        rules: Regular expression and replacement, in order; ``<1>`` is group 1 plus one.
        requires: A name that must be there, too, behind the same prefix.
    """

    source: str
    anchor: str
    rules: tuple[Rule, ...] = ()
    requires: str | None = None


_DIALECTS = (
    Dialect(
        "Hugging Face",
        r"(?:resnet\.)?encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        (
            (r"^resnet\.", ""),
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"layer<1>.\2."),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            (r"\.layer\.(\d)\.convolution\.", ".conv<1>."),
            (r"\.layer\.(\d)\.normalization\.", ".bn<1>."),
            (r"^classifier\.1\.", "fc."),
        ),
    ),
    Dialect(
        "MMPretrain",
        r"backbone\.layer1\.0\.conv1\.weight",
        ((r"^backbone\.", ""), (r"^head\.fc\.", "fc.")),
        requires="head.fc.weight",
    ),
    Dialect(
        "NVIDIA DeepLearningExamples",
        r"layers\.0\.0\.conv1\.weight",
        ((r"^layers\.(\d+)\.(?=\d)", "layer<1>."),),
    ),
    Dialect("torchvision or timm", r"layer1\.0\.conv1\.weight"),
)
# Words that do not tell sources apart, applied after a dialect's own rules.
_COMMON: tuple[Rule, ...] = (
    (r"^stem\.0\.conv\.", "conv1.0."),  # MMPretrain's deep stem
    (r"^stem\.0\.bn\.", "conv1.1."),
    (r"^stem\.1\.conv\.", "conv1.3."),
    (r"^stem\.1\.bn\.", "conv1.4."),
    (r"^stem\.2\.conv\.", "conv1.6."),
    (r"^stem\.2\.bn\.", "bn1."),
    (r"\.se_layer\.conv([12])\.conv\.", r".se.fc\1."),  # MMPretrain
    (r"\.squeeze\.squeeze\.", ".se.fc1."),  # NVIDIA
    (r"\.squeeze\.expand\.", ".se.fc2."),
    (r"\.shortcut\.([01])\.", r".downsample.\1."),  # CIFAR-10 repositories
    (r"^(?:linear|last_linear)\.", "fc."),
    (r"^fc\.\d+\.(weight|bias)$", r"fc.\1"),  # Sequential(Dropout, Linear), as in fine-tuning
)
# Counters of profilers, and of averaging wrappers that keep no copy of the network.
_IGNORED = re.compile(r"(^|\.)(total_ops|total_params)$")

# What the names of other networks look like; the first match is told to the user.
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)regnet\.", "a RegNet"),
    (r"(^|\.)(attnpool|visual\.transformer)\.", "a CLIP model"),
    (r"relative_position_bias_table", "a Swin transformer"),
    (r"(\.attn\.qkv\.|encoder_layer_0\.|(^|\.)vit\.|cls_token)", "a vision transformer"),
    (r"stage2\.0\.branches\.", "an HRNet"),
    (r"layer1\.0\.convs\.0\.", "a Res2Net"),
    (r"layer1\.0\.conv[12]\.(fc1|bn0|attn|paths)", "a split-attention or selective-kernel network"),
    (r"layer1\.0\.bn1\.(IN|BN)\.", "an IBN-Net"),
    (r"(^|\.)layer0\.conv1\.", "an SENet of the older layout, whose max-pool differs"),
    (r"\.se\.conv\.weight$", "an ECA-Net, whose attention is a 1-D convolution"),
    (r"stages\.0\.(conv_exp|conv_down)\.", "a CSP network"),
    (r"(root\.conv|stages\.0\.blocks\.0\.(norm1|conv1)\.(weight|conv))", "a ResNet v2"),
    (r"(features\.denseblock1|denselayer1)", "a DenseNet"),
    (r"(stages\.0\.blocks\.0\.conv_dw|features\.1\.0\.layer_scale|\.dwconv\.)", "a ConvNeXt"),
    (
        r"(conv_dw\.|conv_pwl?\.|features\.1\.(0\.block|block|conv)\.)",
        "an EfficientNet or MobileNet",
    ),
    (r"(stem\.conv|s1\.b1\.conv1|trunk_output\.)", "a RegNet or another network of stages"),
    (r"^features\.\d+\.(weight|conv)", "a VGG, AlexNet or SqueezeNet"),
    (r"(Conv2d_1a_3x3|inception)", "an Inception network"),
    (r"model\.\d+\.(cv1|conv)\.", "a YOLO detector"),
    (r"(\.lora_|embed_tokens|word_embeddings|lm_head)", "a language model"),
)


@dataclass(frozen=True)
class Naming:
    """Whose names a state dict has, and what a wrapper put in front of them.

    Attributes:
        dialect: The source's names.
        prefix: What stands before every name.
    """

    dialect: Dialect
    prefix: str


def holds_resnet(keys: Iterable[str]) -> bool:
    """Whether any of the names belongs to a residual network."""
    anchors = re.compile("|".join(rf"(?:^|\.)(?:{d.anchor})$" for d in _DIALECTS))
    return any(anchors.search(key) for key in keys)


def find_naming(keys: Sequence[str]) -> list[Naming]:
    """Return every residual network among the names, under the first dialect that fits."""
    for dialect in _DIALECTS:
        anchor = re.compile(rf"(|.*?\.)(?:{dialect.anchor})$")
        prefixes = sorted({m[1] for m in map(anchor.match, keys) if m})
        if dialect.requires is not None:
            prefixes = [p for p in prefixes if p + dialect.requires in keys]
        if prefixes:
            return [Naming(dialect, prefix) for prefix in prefixes]
    return []


def canonical_names(
    naming: Naming, values: Mapping[str, _T]
) -> tuple[dict[str, _T], dict[str, str]]:
    """Strip the prefix and translate to our names.

    Args:
        naming: Found by ``find_naming``.
        values: By their source's names; what is outside the prefix is left out.

    Returns:
        The values under our names, and which names were changed besides the prefix.
    """
    result: dict[str, _T] = {}
    renamed: dict[str, str] = {}
    for key, value in values.items():
        if not key.startswith(naming.prefix) or _IGNORED.search(key):
            continue
        name = translated = key.removeprefix(naming.prefix)
        for pattern, replacement in (*naming.dialect.rules, *_COMMON):
            translated = re.sub(pattern, partial(_fill, replacement), translated)
        if translated in result or (translated != name and naming.prefix + translated in values):
            translated = name  # two sources of one name: leave both, the comparison tells
        result[translated] = value
        if translated != name:
            renamed[name] = translated
    return result, renamed


def _fill(replacement: str, match: re.Match[str]) -> str:
    counted = re.sub(r"<(\d)>", lambda m: str(int(match[int(m[1])]) + 1), replacement)
    return match.expand(counted)


def other_network(keys: Iterable[str]) -> str | None:
    """Say what network the names belong to, if it is a known one that is not a plain ResNet."""
    names = list(keys)
    return next((kind for p, kind in _OTHERS if any(re.search(p, n) for n in names)), None)
