"""Options that several commands share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.cli.output import Output
    from resnet_edge.images.spec import ImageSpec

log = logging.getLogger(__name__)

__all__ = [
    "BundleArgument",
    "ColorOption",
    "CropOption",
    "DataOption",
    "ImageSpecFlags",
    "InterpolationOption",
    "LabelsOption",
    "MaxDropOption",
    "MeanOption",
    "RecipeOption",
    "ResizeOption",
    "StdOption",
    "TargetOption",
    "TrustOption",
    "numbers",
    "open_bundle",
    "refuse_labels_alone",
]

BundleArgument = Annotated[Path, typer.Argument(help="Bundle made by export, or an ONNX file.")]

DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Images: an IDX directory, a flat folder, a class-per-folder tree, or a .npy or .npz "
        "file."
    ),
]
LabelsOption = Annotated[
    Path | None, typer.Option(help="CSV file 'file name,label' for a flat folder.")
]
RecipeOption = Annotated[str, typer.Option(help="Calibration recipe: a name or a .toml file.")]
TargetOption = Annotated[
    str, typer.Option(help="Device: a name (see 'targets'), a .toml file, or auto.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-engine",
        help="Load engines that were not built on this machine; they run native code.",
    ),
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
ColorOption = Annotated[str | None, typer.Option(help="rgb, bgr, rgba or gray.")]


def open_bundle(path: Path, out: Output, spec: ImageSpecFlags | None = None) -> Bundle:
    """Open a bundle, or bring an ONNX file into one at ``engines/builds/<its name>``.

    A bundle that is there already and was made from this very file is taken as it is.

    Args:
        path: Bundle or ONNX file.
        out: For progress.
        spec: Preprocessing flags; only an ONNX file takes them, a bundle has its own.

    Raises:
        ResnetEdgeError: Neither works.
    """
    from resnet_edge.bundle.bundle import Bundle

    if path.suffix != ".onnx":
        if spec is not None and spec.given:
            raise ConfigError(
                "a bundle's preprocessing is fixed when it is made",
                hint="pass these flags to export, or together with an ONNX file",
            )
        return Bundle.open(path)
    from resnet_edge.export.foreign.import_onnx import ImportConfig, import_foreign, imported_from
    from resnet_edge.export.foreign.model import read_foreign

    folder = Path("engines/builds") / path.stem
    foreign = read_foreign(path)
    known = imported_from(foreign, folder)
    if known is not None:
        _refuse_other_spec(path, known, spec)
        log.info("%s is bundle %s", path, folder)
        return known
    config = ImportConfig(image_spec=None if spec is None else spec.change)
    result = import_foreign(foreign, folder, config, progress=out.progress)
    for note in () if result.cached else result.notes:
        log.info("note: %s", note)
    log.info("%s is bundle %s", path, result.bundle.path)
    return result.bundle


def _refuse_other_spec(path: Path, bundle: Bundle, flags: ImageSpecFlags | None) -> None:
    from resnet_edge.export.foreign.preprocessing import differences

    recorded = bundle.model.image_spec
    if flags is not None and (given := flags.applied_to(recorded)) != recorded:
        raise ConfigError(
            f"{bundle.path} was made from {path} with other preprocessing: "
            + differences(recorded, given),
            hint=f"leave these flags out, or make it anew with them: resnet-edge export {path} …",
        )


@dataclass(frozen=True)
class ImageSpecFlags:
    """What the user said about preprocessing; None where nothing."""

    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None
    color: str | None = None

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return any(value is not None for value in vars(self).values())

    @property
    def change(self) -> Callable[[ImageSpec], ImageSpec] | None:
        """`applied_to`, for who knows the model's own preprocessing; None if nothing was said."""
        return self.applied_to if self.given else None

    def applied_to(self, default: ImageSpec) -> ImageSpec:
        """Return ``default`` with what was said put in."""
        return replace(
            default,
            resize=default.resize if self.resize is None else self.resize or None,
            crop=default.crop if self.crop is None else (self.crop, self.crop),
            interpolation=self.interpolation or default.interpolation,
            mean=default.mean if self.mean is None else numbers(self.mean),
            std=default.std if self.std is None else numbers(self.std),
            color=self.color or default.color,
        )


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


def refuse_labels_alone(labels: Path | None, data: Path | None) -> None:
    """Refuse labels of images that are not given.

    Raises:
        ConfigError: There are labels and no images.
    """
    if labels is not None and data is None:
        raise ConfigError("--labels belongs to images, and there are none", hint="add --data DIR")
