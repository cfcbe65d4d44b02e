"""What a checkpoint records besides weights: preprocessing, class names, the network's variant."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resnet_edge.errors import CheckpointError, ConfigError
from resnet_edge.images.spec import CIFAR10, FASHION_MNIST, IMAGENET, ImageSpec
from resnet_edge.models.formats import Contents
from resnet_edge.models.resnet_config import ResNetConfig

__all__ = [
    "Preprocessing",
    "image_spec_of",
    "labels_of",
    "recorded_config",
    "recorded_stride",
    "refuse_variants",
]

# torchvision names a file after the first digits of its SHA-256; resize differs by generation.
_TORCHVISION = {
    "f37072fd": ("ResNet18_Weights.IMAGENET1K_V1", 256),
    "b627a593": ("ResNet34_Weights.IMAGENET1K_V1", 256),
    "0676ba61": ("ResNet50_Weights.IMAGENET1K_V1", 256),
    "11ad3fa6": ("ResNet50_Weights.IMAGENET1K_V2", 232),
    "63fe2227": ("ResNet101_Weights.IMAGENET1K_V1", 256),
    "cd907fc2": ("ResNet101_Weights.IMAGENET1K_V2", 232),
    "394f9c45": ("ResNet152_Weights.IMAGENET1K_V1", 256),
    "f82ba261": ("ResNet152_Weights.IMAGENET1K_V2", 232),
    "7cdf4587": ("ResNeXt50_32X4D_Weights.IMAGENET1K_V1", 256),
    "1a0047aa": ("ResNeXt50_32X4D_Weights.IMAGENET1K_V2", 232),
    "8ba56ff5": ("ResNeXt101_32X8D_Weights.IMAGENET1K_V1", 256),
    "110c445d": ("ResNeXt101_32X8D_Weights.IMAGENET1K_V2", 232),
    "173b62eb": ("ResNeXt101_64X4D_Weights.IMAGENET1K_V1", 232),
    "95faca4d": ("Wide_ResNet50_2_Weights.IMAGENET1K_V1", 256),
    "9ba9bcbe": ("Wide_ResNet50_2_Weights.IMAGENET1K_V2", 232),
    "32ee1156": ("Wide_ResNet101_2_Weights.IMAGENET1K_V1", 256),
    "d733dc28": ("Wide_ResNet101_2_Weights.IMAGENET1K_V2", 232),
}
_BY_NAME = dict(_TORCHVISION.values())
_FLAGS = "--resize --crop --interpolation --mean --std --color"
_PILLOW_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_WARPED_FROM = 384  # pixels: from here on ConvNextImageProcessor distorts instead of cropping
# Filters without weights: names and shapes look like those of the plain network.
_BLURRED = re.compile(r"^(?:se|eca)?res(?:net|next)(?:aa|blur)")


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint's images are prepared.

    Attributes:
        spec: None where nothing is recorded and no default can be guessed.
        source: Who recorded it; None for a default.
        notes: What was assumed, or is done otherwise than recorded.
    """

    spec: ImageSpec | None
    source: str | None
    notes: tuple[str, ...] = ()


def recorded_config(contents: Contents) -> ResNetConfig | None:
    """Return the network that our own ``save_checkpoint`` recorded, if it did.

    Raises:
        CheckpointError: What is recorded is malformed; the message has no file name yet.
    """
    if "config" not in contents.own:
        return None
    try:
        return ResNetConfig.from_json(contents.own["config"])
    except ValueError as error:
        raise CheckpointError(f"malformed metadata: {error}") from error


def recorded_stride(contents: Contents) -> bool | None:
    """Return where a Hugging Face configuration puts a bottleneck's stride; None if unrecorded."""
    if contents.config.get("model_type") != "resnet":
        return None
    return contents.config.get("downsample_in_bottleneck", False) is True


def refuse_variants(contents: Contents) -> None:
    """Refuse what the metadata says and weights cannot show.

    Raises:
        CheckpointError: The network computes something else; the message has no file name yet.
    """
    config = contents.config
    kind = config.get("model_type", "resnet")
    if kind != "resnet":
        raise CheckpointError(f"not a ResNet: its config.json says {kind!r:.40}")
    if config.get("hidden_act", "relu") != "relu":
        raise CheckpointError(f"its activation is {config['hidden_act']!r:.40}, not relu")
    if config.get("downsample_in_first_stage", False) is not False:
        raise CheckpointError("its first stage halves the resolution, which no ResNet here does")
    name = config.get("architecture") or contents.training.get("arch") or ""
    if isinstance(name, str) and _BLURRED.match(name):
        raise CheckpointError(
            f"a {name:.40} smooths before it subsamples, with filters that leave no weights"
        )


def labels_of(
    contents: Contents, num_classes: int
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the recorded class names, or None, and notes on those that were passed over.

    Raises:
        CheckpointError: Our own file names another number of classes; no file name in it yet.
    """
    own = contents.own.get("labels")
    if own is not None:
        if not isinstance(own, list) or len(own) != num_classes:
            raise CheckpointError(f"it names {own!r:.60} for {num_classes} classes")
        return tuple(str(label) for label in own), ()
    ignored: tuple[str, ...] = ()
    for where, found in _foreign_labels(contents):
        labels = tuple(str(label) for label in found)
        if len(labels) == num_classes and len(set(labels)) == num_classes:
            return labels, ignored
        ignored += (f"{where} names {len(labels)} classes, not {num_classes}: ignored",)
    return None, ignored


def _foreign_labels(contents: Contents) -> list[tuple[str, Sequence[Any]]]:
    found: list[tuple[str, Sequence[Any]]] = []
    by_index = contents.config.get("id2label")
    if isinstance(by_index, dict) and not all(str(v) == f"LABEL_{k}" for k, v in by_index.items()):
        indices = [str(i) for i in range(len(by_index))]
        found.append(("id2label", [by_index[i] for i in indices if i in by_index]))
    if isinstance(names := contents.config.get("label_names"), list):
        found.append(("label_names", names))
    meta = contents.training.get("meta")  # MMPretrain
    if isinstance(meta, dict):
        dataset = meta.get("dataset_meta")
        classes = dataset.get("classes") if isinstance(dataset, dict) else meta.get("CLASSES")
        if isinstance(classes, (list, tuple)):
            found.append(("meta", classes))
    return found


def image_spec_of(contents: Contents, config: ResNetConfig) -> Preprocessing:
    """Return the recorded preprocessing, else what such a network is usually trained with.

    Raises:
        CheckpointError: What is recorded makes no sense; the message has no file name yet.
    """
    try:
        recorded = _recorded_spec(contents)
    except ConfigError as error:
        raise CheckpointError(f"its recorded preprocessing: {error.message}") from error
    if recorded is None or recorded.spec is None:
        return _default_spec(config)
    if recorded.spec.channels != config.in_channels:
        raise CheckpointError(
            f"the recorded preprocessing gives {recorded.spec.channels} channels, the network "
            f"takes {config.in_channels}",
            hint=f"pass {_FLAGS}",
        )
    return recorded


def _recorded_spec(contents: Contents) -> Preprocessing | None:
    if "image_spec" in contents.own:
        return Preprocessing(ImageSpec.from_json(contents.own["image_spec"]), "resnet-edge")
    weights = contents.training.get("weights")
    name, resize = _TORCHVISION.get(contents.sha256[:8], (None, 0))
    if name is None and isinstance(weights, str) and weights in _BY_NAME:
        name, resize = weights, _BY_NAME[weights]
    if name is not None:
        return Preprocessing(replace(IMAGENET, resize=resize), f"torchvision {name}")
    readers = (
        ("preprocessor_config.json", contents.preprocessor, _from_hugging_face),
        ("pretrained_cfg", contents.config.get("pretrained_cfg"), _from_timm),
    )
    for source, value, read in readers:
        if isinstance(value, dict) and value:
            try:
                spec, notes = read(value)
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                raise ConfigError(f"{source} is malformed: {error!r:.80}") from error
            return Preprocessing(spec, source, notes)
    return None


def _default_spec(config: ResNetConfig) -> Preprocessing:
    if config.in_channels not in (1, 3):
        note = f"no default preprocessing for {config.in_channels} input channels: pass {_FLAGS}"
        return Preprocessing(None, None, (note,))
    if config.in_channels == 1:
        spec, words = FASHION_MNIST, "28x28 gray, the Fashion-MNIST"
    elif config.stem == "small":
        spec, words = CIFAR10, "32x32, the CIFAR-10"
    else:
        spec, words = IMAGENET, "resize 256, crop 224, the ImageNet"
    note = (
        f"no preprocessing recorded: {words} default is assumed; pass {_FLAGS} "
        "if it was trained otherwise"
    )
    return Preprocessing(spec, None, (note,))


def _from_timm(value: Mapping[str, Any]) -> tuple[ImageSpec, tuple[str, ...]]:
    """Return the preprocessing and notes on what is done otherwise."""
    channels, height, width = (int(n) for n in value.get("input_size", (3, 224, 224)))
    spec = ImageSpec(
        resize=math.floor(min(height, width) / float(value.get("crop_pct") or 0.875)),
        crop=(height, width),
        interpolation=str(value.get("interpolation") or "bicubic"),
        mean=_numbers(value.get("mean"), IMAGENET.mean),
        std=_numbers(value.get("std"), IMAGENET.std),
        color={1: "gray", 3: "rgb", 4: "rgba"}.get(channels, "rgb"),
    )
    if value.get("crop_mode", "center") == "center":
        return spec, ()
    return spec, (f"timm's crop mode {value['crop_mode']!r:.20} is replaced by a centre crop",)


def _from_hugging_face(value: Mapping[str, Any]) -> tuple[ImageSpec, tuple[str, ...]]:
    """Return the preprocessing and notes on what is done otherwise."""
    size, crop = value.get("size", 224), value.get("crop_size")
    shortest = size.get("shortest_edge") or size["height"] if isinstance(size, dict) else size
    shortest = int(shortest)
    resize: int | None = shortest
    notes: tuple[str, ...] = ()
    if "crop_pct" in value or "ConvNext" in str(value.get("image_processor_type", "")):
        if shortest < _WARPED_FROM:
            resize = int(shortest / float(value.get("crop_pct") or 224 / 256))
        else:
            notes = ("images are cropped to a square where Hugging Face would distort them",)
        crop = shortest
    if not value.get("do_resize", True):
        resize = None
    height, width = (
        (int(crop["height"]), int(crop["width"])) if isinstance(crop, dict)
        else (int(crop or shortest),) * 2
    )  # fmt: skip
    normalised = bool(value.get("do_normalize", True))
    scale = 255 * float(value.get("rescale_factor", 1 / 255))
    spec = ImageSpec(
        resize=resize,
        crop=(height, width),
        interpolation=_PILLOW_FILTERS[int(value.get("resample", 2))],
        mean=tuple(m / scale for m in _numbers(value.get("image_mean"), IMAGENET.mean))
        if normalised else (0.0,) * 3,
        std=tuple(s / scale for s in _numbers(value.get("image_std"), IMAGENET.std))
        if normalised else (1 / scale,) * 3,
        color="gray" if normalised and len(value.get("image_mean", "rgb")) == 1 else "rgb",
    )  # fmt: skip
    return spec, notes


def _numbers(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    return default if value is None else tuple(float(v) for v in value)
