"""ImageSpec: the one description of preprocessing, from image file to network input.

Calibration, evaluation, benchmark, golden reference and packaging all go through this module.

How unusual images are read: EXIF rotation is applied; CMYK and palette images are converted to
RGB by Pillow; alpha is dropped, not composited; 16-bit images are scaled to 8 bits (value / 257).
Resize and centre crop follow torchvision's ``Resize`` (shorter side, antialiased) and
``CenterCrop`` on PIL images, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from resnet_edge.errors import ConfigError
from resnet_edge.schema import decode, encode

__all__ = ["CIFAR10", "FASHION_MNIST", "IMAGENET", "ImageSpec"]

_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1, "rgba": 4}
_MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L", "rgba": "RGBA"}
_LARGEST = 1 << 16  # pixels per side
_LIMIT = 1e6  # far beyond any mean or std, within what float32 can divide by
_CACHED_VALUES = 1 << 18  # normalised at a time, so that they stay in a core's cache
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class ImageSpec:
    """How an image becomes a network input.

    Attributes:
        resize: Length in pixels the shorter side is resized to; None keeps the size.
        crop: Height and width in pixels of the centre crop; smaller images are padded with 0.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        color: Channels the network was trained with: ``rgb``, ``bgr``, ``rgba`` or ``gray``.
        mean: Per channel, on the 0–1 scale, in the order of ``color``.
        std: Per channel, on the 0–1 scale.
        input: ``float`` feeds normalised float32 NCHW; ``uint8`` feeds raw uint8 NHWC to a graph
            that normalises by itself.
    """

    resize: int | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    color: str = "rgb"
    input: Literal["float", "uint8"] = "float"

    def __post_init__(self) -> None:
        if self.color not in _CHANNELS:
            raise ConfigError(
                f"unknown colour order {self.color!r}", hint="use rgb, bgr, rgba or gray"
            )
        if self.interpolation not in _INTERPOLATIONS:
            raise ConfigError(
                f"unknown interpolation {self.interpolation!r}",
                hint=f"use one of {', '.join(_INTERPOLATIONS)}",
            )
        if self.input not in ("float", "uint8"):
            raise ConfigError(f"unknown input type {self.input!r}", hint="use float or uint8")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ConfigError(
                f"{self.color} images need {self.channels} mean and std values, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        sizes = (*self.crop, 1 if self.resize is None else self.resize)
        if len(self.crop) != 2 or not all(isinstance(n, int) and 1 <= n <= _LARGEST for n in sizes):
            raise ConfigError(
                f"crop {self.crop} and resize {self.resize} must be whole numbers of pixels from 1 "
                f"to {_LARGEST}, crop as height and width"
            )
        finite = all(abs(m) <= _LIMIT for m in self.mean)
        if not finite or not all(1 / _LIMIT <= s <= _LIMIT for s in self.std):
            raise ConfigError(f"mean {self.mean} and std {self.std} must be finite, std positive")

    @property
    def channels(self) -> int:
        """Number of channels the network sees."""
        return _CHANNELS[self.color]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one network input without the batch: CHW for float, HWC for uint8."""
        height, width = self.crop
        if self.input == "uint8":
            return (height, width, self.channels)
        return (self.channels, height, width)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return cast("dict[str, Any]", encode(self))

    @classmethod
    def from_json(cls, value: Any) -> ImageSpec:
        """Read what ``to_json`` wrote.

        Raises:
            ConfigError: Keys are missing or unknown, or values make no sense.
        """
        return decode(cls, value, "the image spec")

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Turn any Pillow image into the uint8 HWC pixels the network looks at."""
        image = self._crop(self._resize(_to_8_bit(image, _MODES[self.color])))
        array = np.asarray(image, dtype=np.uint8)
        if self.color == "gray":
            return array[:, :, None]
        return array[:, :, ::-1] if self.color == "bgr" else array

    def to_input(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn a batch of pixels (uint8 NHWC) into the network's input.

        Returns:
            float32 NCHW ``(pixel / 255 - mean) / std``, or the pixels themselves for
            ``input="uint8"``.
        """
        if self.input == "uint8":
            return np.ascontiguousarray(pixels)
        shape = (self.channels, 1, 1)
        mean, std = (np.array(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        out = np.empty((len(pixels), self.channels, *pixels.shape[1:3]), dtype=np.float32)
        step = max(1, _CACHED_VALUES // max(1, out[:1].size))
        for start in range(0, len(out), step):  # the same float32 steps as torchvision's
            part = out[start : start + step]
            np.copyto(part, pixels[start : start + step].transpose(0, 3, 1, 2))
            part /= np.float32(255)
            part -= mean
            part /= std
        return out

    def _resize(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.resize is None or min(width, height) == self.resize:
            return image
        if width <= height:
            size = (self.resize, int(self.resize * height / width))
        else:
            size = (int(self.resize * width / height), self.resize)
        return image.resize(size, Image.Resampling[self.interpolation.upper()])

    def _crop(self, image: Image.Image) -> Image.Image:
        height, width = self.crop
        if image.size == (width, height):
            return image
        left, top = _crop_offset(image.width, width), _crop_offset(image.height, height)
        return image.crop((left, top, left + width, top + height))


def _crop_offset(have: int, want: int) -> int:
    """Return where a centre crop starts; negative where the image is padded."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def _to_8_bit(image: Image.Image, mode: str) -> Image.Image:
    """Apply EXIF rotation and convert to ``L``, ``RGB`` or ``RGBA``."""
    # Both Pillow calls would copy an image that they need not change.
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # I;16, I;16B and I are 16-bit files in practice
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow's advice; the next step drops alpha if need be
    return image if image.mode == mode else image.convert(mode)


IMAGENET = ImageSpec(
    resize=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)

# Mean and standard deviation of the 60,000 training images, computed from the data set.
FASHION_MNIST = ImageSpec(resize=28, crop=(28, 28), mean=(0.2860,), std=(0.3530,), color="gray")

# As published with most CIFAR-10 checkpoints.
CIFAR10 = ImageSpec(
    resize=32, crop=(32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
