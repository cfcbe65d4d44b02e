"""The quantize stage under an accuracy budget: rank, search, prove once."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.backends.evaluate import run_all
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.bundle.names import SENSITIVITY, TABLE
from resnet_edge.bundle.reference import require_classifier
from resnet_edge.errors import ConfigError, DataError
from resnet_edge.files import write_json
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.probe import PROBE_BATCH
from resnet_edge.quantize.score import HeldOut, Inputs
from resnet_edge.quantize.search import Budget, Comparison, Found, Labelled, compare, search
from resnet_edge.quantize.sensitivity import LayerSensitivity, rank_layers
from resnet_edge.quantize.stage import base_model, load_table, store_float_layers

__all__ = ["BudgetResult", "meet_budget", "sensitivity"]

log = logging.getLogger(__name__)

_PROXY_IMAGES, _RANK_IMAGES = 16, 32
_CONFIRMED = 64  # layers measured one by one, the worst by the proxy
_MIN_CHOOSE = 256
_BATCH = 32


@dataclass(frozen=True)
class BudgetResult:
    """What the search found and whether it holds on images it has not seen.

    Attributes:
        budget: What was asked for.
        ranking: Layers, most sensitive first.
        found: Result of the search.
        proof: The found graph on images used for nothing else.
    """

    budget: Budget
    ranking: tuple[LayerSensitivity, ...]
    found: Found
    proof: Comparison

    @property
    def passed(self) -> bool:
        """Whether the budget is proven."""
        return self.proof.outcome == "pass"

    def to_json(self) -> dict[str, Any]:
        """Return what is stored in the bundle and printed by ``--json``."""
        return {
            "budget": dict(vars(self.budget)),
            "keep_float": list(self.found.keep_float),
            "layers": len(self.ranking),
            "macs_share_float": self.found.macs_share,
            "expected_slowdown": self.found.expected_slowdown,
            "search": [
                {"kept": step.kept, **step.comparison.to_json()} for step in self.found.steps
            ],
            "proof": self.proof.to_json(),
            "ranking": [layer.to_json() for layer in self.ranking],
            "passed": self.passed,
        }


def meet_budget(
    bundle: Bundle,
    source: ImageSource,
    labels: NDArray[np.int64] | None,
    budget: Budget,
    *,
    progress: Progress = SILENT,
) -> BudgetResult:
    """Keep as few layers in FP16 as the budget needs, and prove the result once.

    Images that were calibrated on are left out. Of the others, by content hash, some are chosen on
    and the rest prove; with too few for the budget the proof is inconclusive, never a pass.

    Raises:
        ConfigError: ``top1`` without labels, or the network has no classifier.
        DataError: Not enough images are left.
        CalibrationError: The bundle has no calibration.
    """
    require_classifier(bundle)
    if budget.metric == "top1" and labels is None:
        raise ConfigError(
            f"{source.path} has no labels, so top-1 cannot be measured",
            hint="pass --labels FILE, or --metric agreement",
        )
    model, table = base_model(bundle), load_table(bundle)
    unused = _unused(source, table.used)
    wanted = max(_MIN_CHOOSE, math.ceil(600 / max(budget.max_drop, 0.05)))
    count = min(wanted, len(unused) // 2)
    if count < 2:
        raise DataError(
            f"{source.path} leaves {len(unused)} images after calibration",
            hint="pass more images, or another --data than the calibration's",
        )
    choose_on, prove_on = unused[:count], unused[count:]
    held_out = HeldOut.of(model, source, bundle.model.image_spec, choose_on[:_RANK_IMAGES])
    spec = bundle.model.image_spec
    proxy = Inputs.read(source, spec, choose_on[:_PROXY_IMAGES], batch_size=PROBE_BATCH)
    ranking = rank_layers(
        model, table.tensors, proxy, held_out, confirm=_CONFIRMED, progress=progress
    )
    choose = _labelled(bundle, model, source, labels, choose_on)  # under the search's progress
    found = search(model, table.tensors, ranking, choose, budget, progress=progress)
    prove = _labelled(bundle, model, source, labels, prove_on, progress)
    proof = compare(model, table.tensors, prove, budget, keep_float=found.keep_float)
    result = BudgetResult(budget, ranking, found, proof)
    store_float_layers(bundle, result.to_json() | {"chosen_on": [source.key(i) for i in choose_on]})
    return result


def sensitivity(
    bundle: Bundle, source: ImageSource, *, progress: Progress = SILENT
) -> tuple[LayerSensitivity, ...]:
    """Measure every layer alone and store the ranking in the bundle.

    Raises:
        CalibrationError: The bundle has no calibration.
    """
    model, table = base_model(bundle), load_table(bundle)
    unused = _unused(source, table.used)
    if not unused:
        raise DataError(f"all images of {source.path} were calibrated on", hint="pass other images")
    spec = bundle.model.image_spec
    held_out = HeldOut.of(model, source, spec, unused[:_RANK_IMAGES])
    proxy = Inputs.read(source, spec, unused[:_PROXY_IMAGES], batch_size=PROBE_BATCH)
    ranking = rank_layers(model, table.tensors, proxy, held_out, progress=progress)
    write_json(bundle.file(SENSITIVITY), {"layers": [layer.to_json() for layer in ranking]})
    bundle.record(SENSITIVITY, Record(stage="sensitivity", inputs={"ranges": bundle.sha256(TABLE)}))
    return ranking


@dataclass(frozen=True)
class _Streamed:
    """Network inputs decoded anew on every pass, so that memory does not grow with the images."""

    source: ImageSource
    spec: ImageSpec
    indices: Sequence[int]
    progress: Progress

    def __iter__(self) -> Iterator[NDArray[Any]]:
        with self.progress.task("prove: INT8", total=len(self.indices)) as task:
            for batch in ImageBatches(self.source, self.spec, _BATCH, self.indices):
                yield self.spec.to_input(batch.pixels)
                task.advance(len(batch.indices))


def _unused(source: ImageSource, used: Collection[str]) -> list[int]:
    """Return images that are not in ``used``, in the order of their content hash."""
    keys = {i: source.key(i) for i in range(len(source))}
    return sorted((i for i, key in keys.items() if key not in used), key=lambda i: keys[i])


def _labelled(
    bundle: Bundle,
    model: ModelProto,
    source: ImageSource,
    labels: NDArray[np.int64] | None,
    indices: Sequence[int],
    progress: Progress = SILENT,
) -> Labelled:
    spec = bundle.model.image_spec
    with OnnxRuntimeSession(model) as session:
        logits, kept, _ = run_all(
            session, source, spec, indices=indices, batch_size=_BATCH,
            label="prove: float", progress=progress,
        )  # fmt: skip
    known = None if labels is None else labels[list(kept)]
    return Labelled(_Streamed(source, spec, kept, progress), logits, known)
