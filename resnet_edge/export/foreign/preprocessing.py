"""How images are prepared for an ONNX classifier made by someone else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from onnx import ModelProto

from resnet_edge.errors import ConfigError
from resnet_edge.export.foreign.model import ImageInput
from resnet_edge.images.spec import CIFAR10, FASHION_MNIST, IMAGENET, ImageSpec

__all__ = [
    "choose_image_spec",
    "default_image_spec",
    "differences",
    "recorded_image_spec",
    "recorded_labels",
]

_OPTIONS = "--resize --crop --mean --std --color"


def recorded_image_spec(model: ModelProto) -> ImageSpec | None:
    """Return the preprocessing that resnet-edge wrote into the file, if it made it.

    Raises:
        ConfigError: What is recorded is malformed.
    """
    text = _metadata(model).get("resnet_edge.image_spec")
    return None if text is None else ImageSpec.from_json(_parse(text))


def recorded_labels(model: ModelProto) -> tuple[str, ...] | None:
    """Return the class names that resnet-edge wrote into the file, if it made it.

    Raises:
        ConfigError: What is recorded is malformed.
    """
    value = _parse(_metadata(model).get("resnet_edge.labels", "null"))
    if value is not None and not isinstance(value, list):
        raise ConfigError(f"the labels recorded in the ONNX file are malformed: {value!r:.60}")
    return None if value is None else tuple(str(label) for label in value)


def _metadata(model: ModelProto) -> Mapping[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the ONNX file's metadata is malformed: {text!r:.60}") from error


def choose_image_spec(
    source: ImageInput,
    recorded: ImageSpec | None,
    given: ImageSpec | Callable[[ImageSpec], ImageSpec] | None,
) -> tuple[ImageSpec, tuple[str, ...]]:
    """Return the preprocessing for a model and what was assumed about it.

    Args:
        source: What the model takes.
        recorded: What the file says, which is binding.
        given: What the user says; a function makes it of what would be taken otherwise.

    Raises:
        ConfigError: The user contradicts the file, or the preprocessing does not fit the input.
    """
    if given is not None and not isinstance(given, ImageSpec):
        given = given(choose_image_spec(source, recorded, None)[0])
    kind: Literal["float", "uint8"] = "uint8" if source.dtype == "uint8" else "float"
    recorded, given = (s and replace(s, input=kind) for s in (recorded, given))
    if recorded is not None and given not in (None, recorded):
        raise ConfigError(
            "the ONNX file records how its images are prepared, and the options say otherwise: "
            + differences(recorded, given),
            hint=f"leave out {_OPTIONS} --interpolation",
        )
    spec = recorded or given
    if spec is None:
        default = replace(default_image_spec(source), input=kind)
        note = f"no preprocessing recorded: {_words(default)} is assumed; pass {_OPTIONS}"
        return default, (f"{note} if it was trained otherwise",)
    wanted = (source.channels, source.height or spec.crop[0], source.width or spec.crop[1])
    if (spec.channels, *spec.crop) != wanted:
        raise ConfigError(
            f"the preprocessing gives {spec.channels} x {spec.crop[0]} x {spec.crop[1]} images, "
            f"the model takes {' x '.join(map(str, wanted))}",
            hint=f"pass {_OPTIONS} as the model was trained",
        )
    return spec, ()


def default_image_spec(source: ImageInput) -> ImageSpec:
    """Return what networks of this input size are usually trained with."""
    standard = FASHION_MNIST if source.channels == 1 else IMAGENET
    height, width = source.height or standard.crop[0], source.width or standard.crop[1]
    if source.channels == 3 and (height, width) == CIFAR10.crop:
        return CIFAR10
    shorter = min(height, width)
    resize = shorter if source.channels == 1 else round(shorter * 256 / 224)
    return replace(standard, resize=resize, crop=(height, width))


def _words(spec: ImageSpec) -> str:
    def listed(values: tuple[float, ...]) -> str:
        return ",".join(f"{v:g}" for v in values)

    size = "x".join(map(str, spec.crop))
    text = f"{spec.color}, resize {spec.resize}, crop {size}"
    if spec.input == "uint8":
        return text
    return f"{text}, mean {listed(spec.mean)}, std {listed(spec.std)}"


def differences(recorded: ImageSpec, given: ImageSpec | None) -> str:
    """Say in words where two ways to prepare images differ."""
    theirs = {} if given is None else given.to_json()
    return ", ".join(
        f"{key} {value} against {theirs[key]}"
        for key, value in recorded.to_json().items()
        if theirs.get(key) != value
    )
