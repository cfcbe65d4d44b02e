"""The calibrate stage: images and a bundle to a ranges table and a TensorRT cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.backends.tensorrt.calibration_cache import write_cache
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import BASE, CACHE, MODEL, PARTIAL, TABLE
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.calibrate.auto import SAFE, FoundRanges, bake_off, ranges_of, split
from resnet_edge.calibrate.collect import Partial, collect
from resnet_edge.calibrate.derived_ranges import derive_ranges
from resnet_edge.calibrate.sqnr import with_sqnr
from resnet_edge.catalog.recipes import Recipe
from resnet_edge.errors import DataError
from resnet_edge.files import sha256_json
from resnet_edge.graph.onnx_model import load_graph, save_graph
from resnet_edge.images.arrays import RandomInputs
from resnet_edge.images.labels import resolve_labels
from resnet_edge.images.source import ImageSource, NetworkInputs
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.placement import place

__all__ = ["CalibrationResult", "calibrate"]

log = logging.getLogger(__name__)

CHOOSE = 64  # images the bake-off chooses on
_ENOUGH_TO_SPLIT = 8
_ENOUGH_IMAGES = 300  # NVIDIA advises at least 500 for CNNs, others warn below 300


@dataclass(frozen=True)
class CalibrationResult:
    """Ranges, in the bundle.

    Attributes:
        table: The ranges.
        cached: True if the bundle already held this very calibration.
    """

    table: RangesTable
    cached: bool


def calibrate(
    bundle: Bundle,
    source: ImageSource | NetworkInputs,
    recipe: Recipe,
    *,
    progress: Progress = SILENT,
) -> CalibrationResult:
    """Find the activation ranges of the bundle's model on real images.

    Takes all images, or ``recipe.images`` of them spread evenly over the source; the recipe
    ``auto`` takes some more to choose on. What was counted when the process was killed is kept in
    the bundle, and the next call with the same model and images goes on from there. From
    `RandomInputs` the table names no images, and its recipe has the key ``random``.

    Raises:
        CalibrationError: Activations are not finite.
        DataError: Too many images cannot be decoded, or inputs are not what the network takes.
        GraphError: The model cannot be quantized.
    """
    parts = _divide(source, recipe)
    random = isinstance(source, RandomInputs)
    described = recipe.to_json() | ({"random": len(parts.calibrate_on)} if random else {})
    record = Record(
        stage="calibrate",
        config={"recipe": described, "image_spec": bundle.model.image_spec.to_json()},
        inputs={"model": bundle.sha256(MODEL), "images": sha256_json(list(parts.keys.values()))},
    )
    if bundle.is_fresh(TABLE, record) and bundle.is_fresh(CACHE, record):
        return CalibrationResult(RangesTable.load(bundle.artifact(TABLE)), cached=True)
    if random:
        log.warning("RANDOM INPUTS: these ranges fit no real image; the accuracy will be poor")
    elif len(parts.calibrate_on) < _ENOUGH_IMAGES:
        log.warning("only %d calibration images; 300 or more are advised", len(parts.calibrate_on))
    model = load_graph(bundle.artifact(MODEL))
    identity = [record.inputs, record.config["image_spec"], parts.calibrate_on]
    partial = Partial(bundle.file(PARTIAL), sha256_json(identity))
    found = _find_ranges(bundle, model, source, recipe, parts, partial, progress)
    skipped = found.collected.skipped
    if skipped:
        log.warning(
            "%d of %d images could not be decoded and were skipped, the first is %s",
            len(skipped), len(parts.calibrate_on), skipped[0],
        )  # fmt: skip
    if found.changed:
        save_graph(found.model, bundle.file(BASE))
        bundle.record(BASE, record)
    used = set(found.collected.indices)
    table = RangesTable(
        tensors=with_sqnr(found.ranges, found.collected.histograms),
        recipe=described if found.trials else described | {"method": found.method},
        model_sha256=bundle.sha256(BASE if found.changed else MODEL),
        images=() if random else tuple(parts.keys[i] for i in parts.calibrate_on if i in used),
        skipped=len(skipped),
        chosen_on=tuple(parts.keys[i] for i in parts.choose_on),
        trials=tuple(trial.to_json() for trial in found.trials),
    )
    table.save(bundle.file(TABLE))
    write_cache(derive_ranges(found.model.graph, table.amax), bundle.file(CACHE))
    bundle.record(CACHE, record)
    bundle.record(TABLE, record)
    partial.path.unlink(missing_ok=True)
    return CalibrationResult(table, cached=False)


@dataclass(frozen=True)
class _Parts:
    """Which images are used for what, and the content hash of each."""

    calibrate_on: list[int]
    choose_on: list[int]
    keys: dict[int, str]


def _divide(source: ImageSource | NetworkInputs, recipe: Recipe) -> _Parts:
    """Take images spread evenly over the source; split them by content hash for the bake-off."""
    automatic = _is_automatic(source, recipe)
    count = min(recipe.images + (CHOOSE if automatic else 0), len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count, dtype=int)).tolist()
    keys = {i: source.key(i) for i in indices}
    if not automatic:
        return _Parts(indices, [], keys)
    calibrate, choose = split([keys[i] for i in indices], recipe.images, CHOOSE)
    return _Parts([indices[i] for i in calibrate], [indices[i] for i in choose], keys)


def _is_automatic(source: ImageSource | NetworkInputs, recipe: Recipe) -> bool:
    """Whether there is a bake-off: it needs images to choose on."""
    return recipe.method == "auto" and hasattr(source, "load") and len(source) >= _ENOUGH_TO_SPLIT


def _find_ranges(
    bundle: Bundle,
    model: ModelProto,
    source: ImageSource | NetworkInputs,
    recipe: Recipe,
    parts: _Parts,
    partial: Partial,
    progress: Progress,
) -> FoundRanges:
    spec = bundle.model.image_spec
    if parts.choose_on:
        images = cast("ImageSource", source)
        return bake_off(
            model,
            images,
            spec,
            calibrate_on=parts.calibrate_on,
            choose_on=parts.choose_on,
            labels=_labels(bundle, images),
            percent=recipe.percent,
            partial=partial,
            progress=progress,
        )
    method = recipe.method
    if method == "auto":
        method = SAFE
        reason = "too few images" if hasattr(source, "load") else "no images but network inputs"
        log.info("%s to choose on, so the recipe is %s", reason, method)
    tensors = place(model.graph).tensors
    collected = collect(
        model, tensors, source, spec,
        indices=parts.calibrate_on, partial=partial, progress=progress,
    )  # fmt: skip
    ranges = ranges_of(collected.histograms, recipe.percent)[method]
    return FoundRanges(model, False, ranges, method, (), collected)


def _labels(bundle: Bundle, source: ImageSource) -> NDArray[np.int64] | None:
    """Return the labels to report top-1 by; None if there are none, or those of another model."""
    info = bundle.model
    try:
        return resolve_labels(source, class_names=info.labels, num_classes=info.num_classes)
    except DataError as error:
        log.warning("no top-1 beside the estimators: %s", error.message)
        return None
