"""The calibrate stage: images and a bundle to a ranges table and a TensorRT cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_edge.artifacts import sha256_json
from resnet_edge.bundle import Record
from resnet_edge.calibrate.collect import collect
from resnet_edge.calibrate.ranges import METHODS, estimate
from resnet_edge.calibrate.table import RangesTable, TensorRange, write_cache
from resnet_edge.export import MODEL
from resnet_edge.graph import load_graph
from resnet_edge.progress import SILENT
from resnet_edge.quantize.placement import place

if TYPE_CHECKING:
    from resnet_edge.bundle import Bundle
    from resnet_edge.calibrate.histogram import Histogram
    from resnet_edge.data import ImageSource
    from resnet_edge.progress import Progress
    from resnet_edge.recipes import Recipe

__all__ = ["CACHE", "TABLE", "CalibrationResult", "calibrate"]

log = logging.getLogger(__name__)

TABLE, CACHE = "calibration.json", "calibration.cache"
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
    bundle: Bundle, source: ImageSource, recipe: Recipe, *, progress: Progress = SILENT
) -> CalibrationResult:
    """Find the activation ranges of the bundle's model on real images.

    Takes all images, or ``recipe.images`` of them spread evenly over the source.

    Raises:
        CalibrationError: Activations are not finite.
        DataError: Too many images cannot be decoded.
        GraphError: The model cannot be quantized.
    """
    import numpy as np

    count = min(recipe.images, len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count, dtype=int)).tolist()
    keys = [source.key(i) for i in indices]
    record = Record(
        stage="calibrate",
        config={"recipe": recipe.to_json(), "image_spec": bundle.model.image_spec.to_json()},
        inputs={"model": bundle.sha256(MODEL), "images": sha256_json(keys)},
    )
    if bundle.is_fresh(TABLE, record) and bundle.is_fresh(CACHE, record):
        return CalibrationResult(RangesTable.load(bundle.artifact(TABLE)), cached=True)
    if len(indices) < _ENOUGH_IMAGES:
        log.warning("only %d calibration images; 300 or more are advised", len(indices))
    model = load_graph(bundle.artifact(MODEL))
    placement = place(model.graph)
    collected = collect(
        model,
        placement.tensors,
        source,
        bundle.model.image_spec,
        indices=indices,
        progress=progress,
    )
    if collected.skipped:
        log.warning(
            "%d of %d images could not be decoded and were skipped, the first is %s",
            len(collected.skipped), len(indices), collected.skipped[0],
        )  # fmt: skip
    used = set(collected.indices)
    table = RangesTable(
        tensors={n: _range(h, recipe) for n, h in collected.histograms.items()},
        recipe=recipe.to_json(),
        model_sha256=bundle.sha256(MODEL),
        images=tuple(key for i, key in zip(indices, keys, strict=True) if i in used),
        skipped=len(collected.skipped),
    )
    table.save(bundle.file(TABLE))
    write_cache(table, bundle.file(CACHE))
    bundle.record(CACHE, record)
    bundle.record(TABLE, record)
    return CalibrationResult(table, cached=False)


def _range(histogram: Histogram, recipe: Recipe) -> TensorRange:
    estimates = {m: estimate(histogram, m, percent=recipe.percent) for m in METHODS}
    return TensorRange(
        amax=estimates[recipe.method],  # type: ignore[index]  # the recipe checks its method
        minimum=histogram.minimum,
        maximum=histogram.maximum,
        estimates={str(k): v for k, v in estimates.items()},
    )
