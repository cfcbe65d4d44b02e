from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from resnet_edge.errors import ConfigError
from resnet_edge.images.spec import FASHION_MNIST, IMAGENET, ImageSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
# How a file with this EXIF orientation was made from the upright picture.
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def raw(height: int, width: int, color: str = "rgb", resize: int | None = None) -> ImageSpec:
    """Return a spec that changes no value."""
    n = CHANNELS[color]
    return ImageSpec(
        resize=resize, crop=(height, width), mean=(0.0,) * n, std=(1.0,) * n, color=color
    )


def read(path: Path, spec: ImageSpec) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return spec.pixels(image)


def noise(height: int, width: int, *channels: int) -> NDArray[np.uint8]:
    shape = (height, width, *channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@st.composite
def specs(draw: st.DrawFn) -> ImageSpec:
    color = draw(st.sampled_from(sorted(CHANNELS)))
    n = CHANNELS[color]
    values = st.floats(-2, 2, width=32)
    return ImageSpec(
        resize=draw(st.none() | st.integers(1, 600)),
        crop=draw(st.tuples(st.integers(1, 600), st.integers(1, 600))),
        mean=tuple(draw(st.lists(values, min_size=n, max_size=n))),
        std=tuple(draw(st.lists(st.floats(0.01, 2), min_size=n, max_size=n))),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"])),
        color=color,
        input=draw(st.sampled_from(["float", "uint8"])),
    )


@given(spec=specs())
@example(spec=IMAGENET)
@example(spec=FASHION_MNIST)
def test_normalisation_is_the_float32_formula_bit_for_bit(spec: ImageSpec) -> None:
    spec = replace(spec, input="float")
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(spec.channels, axis=3)
    mean, std = np.float32(spec.mean), np.float32(spec.std)
    expected = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    out = spec.to_input(pixels)
    assert out.dtype == np.float32
    assert np.array_equal(out, expected.transpose(0, 3, 1, 2))


@given(spec=specs(), count=st.integers(0, 3), height=st.integers(1, 6), width=st.integers(1, 6))
def test_float_input_is_nchw_and_uint8_input_is_the_pixels_as_nhwc(
    spec: ImageSpec, count: int, height: int, width: int
) -> None:
    spec = replace(spec, crop=(height, width))
    pixels = noise(count, height, width, spec.channels)
    out = spec.to_input(pixels)
    assert out.shape == (count, *spec.input_shape)
    assert out.flags.c_contiguous
    if spec.input == "uint8":
        assert out.dtype == np.uint8
        assert np.array_equal(out, pixels)


@given(spec=specs())
def test_json_round_trip_keeps_everything(spec: ImageSpec) -> None:
    assert ImageSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("size", "resized"),
    [((40, 20), (20, 10)), ((20, 40), (10, 20)), ((30, 30), (10, 10)), ((25, 17), (14, 10))],
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_shorter_side_is_resized_and_the_longer_keeps_the_ratio_rounded_down(
    size: tuple[int, int], resized: tuple[int, int], interpolation: str
) -> None:
    image = Image.fromarray(noise(size[1], size[0], 3))
    spec = replace(raw(resized[1], resized[0], resize=10), interpolation=interpolation)
    expected = image.resize(resized, Image.Resampling[interpolation.upper()])
    assert np.array_equal(spec.pixels(image), np.asarray(expected))


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.none() | st.integers(1, 40),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    color=st.sampled_from(sorted(CHANNELS)),
)
def test_every_image_ends_at_the_crop_size(
    size: tuple[int, int], resize: int | None, crop: tuple[int, int], color: str
) -> None:
    pixels = raw(*crop, color, resize).pixels(Image.new("RGB", size))
    assert pixels.shape == (*crop, CHANNELS[color])
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(("have", "want", "start"), [(9, 4, 2), (7, 4, 2), (5, 4, 0), (8, 4, 2)])
def test_the_crop_is_central_and_halves_round_to_even(have: int, want: int, start: int) -> None:
    array = noise(have, have, 3)
    pixels = raw(want, want).pixels(Image.fromarray(array))
    assert np.array_equal(pixels, array[start : start + want, start : start + want])


@pytest.mark.parametrize(("have", "before"), [(4, 2), (5, 1), (7, 0)])
def test_an_image_smaller_than_the_crop_is_padded_with_zeros(have: int, before: int) -> None:
    array = noise(have, have, 3)
    expected = np.zeros((8, 8, 3), np.uint8)
    expected[before : before + have, before : before + have] = array
    assert np.array_equal(raw(8, 8).pixels(Image.fromarray(array)), expected)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_an_image_with_exif_rotation_is_upright(
    tmp_path: Path, orientation: int, mode: str
) -> None:
    upright = noise(6, 9, 3) if mode == "RGB" else noise(6, 9)
    wide = upright.astype(np.uint16) * 257 if mode == "I;16" else upright
    stored = Image.fromarray(wide).transpose(STORED_AS[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    color = "rgb" if mode == "RGB" else "gray"
    assert np.array_equal(read(tmp_path / "a.png", raw(6, 9, color)), upright.reshape(6, 9, -1))


def test_a_cmyk_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    assert np.abs(read(tmp_path / "red.jpg", raw(8, 8)) - np.array([255.0, 0, 0])).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_not_composited(tmp_path: Path, mode: str) -> None:
    array = noise(8, 8, len(mode))
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = array[:, :, :-1].repeat(3 if mode == "LA" else 1, axis=2)
    assert np.array_equal(read(tmp_path / "a.png", raw(8, 8)), expected)


@pytest.mark.parametrize(
    "transparency", [None, 1, bytes([0, 128, 255])], ids=["none", "one colour", "every colour"]
)
def test_a_palette_image_is_read_in_its_colours(
    tmp_path: Path, transparency: bytes | int | None
) -> None:
    palette = noise(3, 3)
    indices = noise(8, 8) % 3
    image = Image.new("P", (8, 8))
    image.putdata(indices.ravel().tolist())
    image.putpalette(palette.tobytes())
    extra = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **extra)
    assert np.array_equal(read(tmp_path / "a.png", raw(8, 8)), palette[indices])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_16_bit_values_are_scaled_to_8_bits(tmp_path: Path, suffix: str, color: str) -> None:
    values = np.array([[0, 257, 128, 129, 65535, 65534, 32768, 300]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    pixels = read(tmp_path / f"a.{suffix}", raw(1, 8, color))
    assert pixels[0, :, 0].tolist() == [0, 1, 0, 1, 255, 255, 128, 1]


def test_a_black_and_white_image_becomes_0_and_255(tmp_path: Path) -> None:
    bits = noise(8, 8) > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", raw(8, 8, "gray"))[:, :, 0], bits * 255)


def test_bgr_is_rgb_reversed_and_gray_is_pillows_luma() -> None:
    image = Image.fromarray(noise(8, 8, 3))
    rgb = raw(8, 8).pixels(image)
    assert np.array_equal(raw(8, 8, "bgr").pixels(image), rgb[:, :, ::-1])
    assert np.array_equal(raw(8, 8, "gray").pixels(image)[:, :, 0], np.asarray(image.convert("L")))


def test_mean_and_std_are_in_the_order_of_the_colours() -> None:
    spec = ImageSpec(
        resize=None, crop=(1, 1), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), color="bgr"
    )
    out = spec.to_input(spec.pixels(Image.new("RGB", (1, 1), (255, 0, 0)))[None])
    np.testing.assert_allclose(out.ravel(), [-0.1, -0.2, 0.7], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"color": "cmyk"},
        {"interpolation": "cubic"},
        {"input": "int8"},
        {"mean": (0.5,)},
        {"std": (0.5, 0.5)},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, -0.1, 0.5)},
        {"std": (0.5, float("nan"), 0.5)},
        {"std": (0.5, float("inf"), 0.5)},
        {"mean": (0.5, float("nan"), 0.5)},
        {"mean": (0.5, float("-inf"), 0.5)},
        {"crop": (0, 224)},
        {"crop": (224, -1)},
        {"crop": (224,)},
        {"crop": (3, 224, 224)},
        {"resize": 0},
        {"resize": 2.5},
    ],
    ids=str,
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(IMAGENET, **change)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(
    change=st.dictionaries(st.sampled_from([*IMAGENET.to_json(), "other"]), ANY_JSON, max_size=2)
)
@example(change={"crop": [float("inf"), 1]})
@example(change={"crop": [224]})
@example(change={"std": [0.5, float("nan"), 0.5]})
@example(change={"mean": [10**400, 0, 0]})
@example(change={"mean": [1e300, 0, 0]})
@example(change={"std": [1e-300, 1, 1]})
def test_a_changed_json_spec_is_usable_or_refused(change: dict[str, Any]) -> None:
    try:
        spec = ImageSpec.from_json(IMAGENET.to_json() | change)
    except ConfigError:
        return
    assert len(spec.input_shape) == 3
    small = replace(spec, resize=None, crop=(2, 2), input="float")
    assert np.isfinite(small.to_input(small.pixels(Image.new("RGB", (2, 2)))[None])).all()


@pytest.mark.parametrize("key", ["resize", "crop", "mean", "std"])
def test_a_json_spec_without_a_required_key_is_refused(key: str) -> None:
    value = {k: v for k, v in IMAGENET.to_json().items() if k != key}
    with pytest.raises(ConfigError, match=key):
        ImageSpec.from_json(value)


@given(value=ANY_JSON)
def test_json_that_is_no_spec_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        ImageSpec.from_json(value)
