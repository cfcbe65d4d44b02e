"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from resnet_edge.imaging import ImageSpec

__all__ = [
    "BundleArgument",
    "ColorOption",
    "CropOption",
    "DataOption",
    "InterpolationOption",
    "LabelsOption",
    "MaxDropOption",
    "MeanOption",
    "RecipeOption",
    "ResizeOption",
    "StdOption",
    "TargetOption",
    "image_spec",
    "numbers",
]

BundleArgument = Annotated[Path, typer.Argument(help="Directory made by export.")]
DataOption = Annotated[
    Path | None,
    typer.Option(help="Images: an IDX directory, a flat folder, or a class-per-folder tree."),
]
LabelsOption = Annotated[
    Path | None, typer.Option(help="CSV file 'file name,label' for a flat folder.")
]
RecipeOption = Annotated[str, typer.Option(help="Calibration recipe: a name or a .toml file.")]
TargetOption = Annotated[
    str, typer.Option(help="Device: a name (see 'targets'), a .toml file, or auto.")
]
MaxDropOption = Annotated[
    float, typer.Option(min=0.0, help="Largest accepted loss of top-1, in percentage points.")
]
ResizeOption = Annotated[
    int | None, typer.Option(min=0, help="Shorter side in pixels; 0 keeps the size.")
]
CropOption = Annotated[int | None, typer.Option(min=1, help="Side of the centre crop in pixels.")]
InterpolationOption = Annotated[
    str | None, typer.Option(help="nearest, bilinear, bicubic or lanczos.")
]
MeanOption = Annotated[
    str | None, typer.Option(help="Per channel, comma-separated, on the 0–1 scale.")
]
StdOption = Annotated[
    str | None, typer.Option(help="Per channel, comma-separated, on the 0–1 scale.")
]
ColorOption = Annotated[str | None, typer.Option(help="rgb, bgr or gray.")]


def numbers(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list.

    Raises:
        ConfigError: A part is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is not a comma-separated list of numbers",
            hint="write for example --mean 0.485,0.456,0.406",
        ) from error


def image_spec(
    default: ImageSpec,
    *,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
    mean: str | None,
    std: str | None,
    color: str | None,
) -> ImageSpec | None:
    """Return ``default`` with what the user gave put in, or None if nothing was given."""
    from dataclasses import replace

    given = {
        "resize": (resize or None) if resize is not None else default.resize,
        "crop": default.crop if crop is None else (crop, crop),
        "interpolation": interpolation or default.interpolation,
        "mean": default.mean if mean is None else numbers(mean),
        "std": default.std if std is None else numbers(std),
        "color": color or default.color,
    }
    if all(value is None for value in (resize, crop, interpolation, mean, std, color)):
        return None
    return replace(default, **given)  # type: ignore[arg-type]  # the keys are fields of ImageSpec
