"""An ONNX classifier made by someone else to a bundle, like one of our own exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.local import remember_path
from resnet_edge.bundle.manifest import ModelInfo, Record
from resnet_edge.bundle.names import GOLDEN, MANIFEST, MODEL
from resnet_edge.bundle.provenance import model_record
from resnet_edge.bundle.reference import Golden
from resnet_edge.catalog.shipped import IMAGES, find
from resnet_edge.errors import ConfigError, ExportError
from resnet_edge.export.foreign.class_output import ClassOutput, class_output
from resnet_edge.export.foreign.classifier import ForeignClassifier, converted
from resnet_edge.export.foreign.model import (
    ForeignFile,
    image_input,
    read_foreign,
    refuse_unsupported,
)
from resnet_edge.export.foreign.preprocessing import (
    choose_image_spec,
    recorded_image_spec,
    recorded_labels,
)
from resnet_edge.export.normalize.simplify import OPSET
from resnet_edge.export.parity import (
    Parity,
    compare_logits,
    fingerprint,
    golden_images,
    labels_for,
    save_model,
    store_logits,
    write_metadata,
)
from resnet_edge.images.opening import open_images
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.progress import SILENT, Progress
from resnet_edge.schema import decode

__all__ = [
    "ImportConfig",
    "ImportResult",
    "import_foreign",
    "import_onnx",
    "imported_from",
]


@dataclass(frozen=True)
class ImportConfig:
    """How to import.

    Attributes:
        image_spec: Preprocessing the model was trained with; not needed, and not to contradict,
            where resnet-edge wrote it into the file. A function is given what would be taken
            otherwise and returns what is.
        labels: Class names; None takes those that resnet-edge wrote into the file.
        output: Name of the output that holds the logits, where there are several.
        simplify: Run onnxsim.
    """

    image_spec: ImageSpec | Callable[[ImageSpec], ImageSpec] | None = None
    labels: tuple[str, ...] | None = None
    output: str | None = None
    simplify: bool = True


@dataclass(frozen=True)
class ImportResult:
    """A bundle with a verified model.

    Attributes:
        bundle: Where it is.
        parity: The bundle's logits against the original model's, on the golden images.
        probabilities: The same after softmax, where the original model ends in one.
        nodes: Number of nodes by operator.
        notes: What was assumed about the model, and what was changed.
        cached: True if the bundle already held this very import.
    """

    bundle: Bundle
    parity: Parity
    probabilities: Parity | None
    nodes: dict[str, int]
    notes: tuple[str, ...]
    cached: bool


def imported_from(foreign: ForeignFile, folder: Path) -> Bundle | None:
    """Return the bundle in ``folder`` if it was made from this very ONNX file.

    Raises:
        BundleError: The bundle is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return None
    bundle = Bundle.open(folder)
    complete = {MODEL, GOLDEN} <= set(bundle.names())
    return bundle if complete and bundle.model.source_sha256 == foreign.sha256 else None


def import_onnx(
    path: Path,
    output: Path,
    config: ImportConfig | None = None,
    *,
    images: ImageSource | None = None,
    progress: Progress = SILENT,
) -> ImportResult:
    """Bring an ONNX classifier into a bundle and prove that it still computes the same.

    Args:
        path: The ONNX file; external data beside it.
        output: Directory of the bundle, new or existing.
        config: Options.
        images: Evaluation images: the golden ones are drawn from them, and the original model's
            logits of all of them travel in the bundle. Default: golden images from the shipped
            set.
        progress: Listener.

    Raises:
        GraphError: The file is not a float image classifier, or cannot be expressed as one that
            the other stages work on.
        ConfigError: The options contradict the file.
        ExportError: The normalised model differs from the original.
        DataError: ``images`` cannot belong to this model.
    """
    return import_foreign(read_foreign(path), output, config, images=images, progress=progress)


def import_foreign(
    foreign: ForeignFile,
    output: Path,
    config: ImportConfig | None = None,
    *,
    images: ImageSource | None = None,
    progress: Progress = SILENT,
) -> ImportResult:
    """Bring an ONNX file that has been read already into a bundle, as `import_onnx` does."""
    config = config or ImportConfig()
    refuse_unsupported(foreign)
    model = foreign.model
    source = image_input(model)
    spec, notes = choose_image_spec(source, recorded_image_spec(model), config.image_spec)
    classes, source = class_output(model, source, spec, config.output)
    original = ForeignClassifier(foreign.path, model, source, spec, classes, config.simplify)
    info = ModelInfo(
        architecture="onnx",
        num_classes=classes.num_classes,
        labels=_class_names(config.labels or recorded_labels(model), classes),
        image_spec=spec,
        parameters=None,
        macs=None,
        source=foreign.path.name,
        source_sha256=foreign.sha256,
    )
    bundle = Bundle.create(output, info)
    golden_source = images or open_images(find(f"{IMAGES}/test"))
    # Labels that cannot belong to the model are found before anything is written.
    labels = labels_for(golden_source, info, required=images is not None)
    record = Record(
        stage="import",
        config={
            "simplify": config.simplify, "image_spec": spec.to_json(), "opset": OPSET,
            "labels": info.labels, "output": classes.name,
        },
        inputs={**foreign.hashes, "images": fingerprint(golden_source)},
    )  # fmt: skip
    remember_path("images", record.inputs["images"], golden_source.path)
    if bundle.is_fresh(MODEL, record) and GOLDEN in bundle.names():
        result = _recorded(Bundle.open(output))
    else:
        result = _import(original, bundle, golden_source, labels, record, notes, progress)
    if images is not None:
        store_logits(
            result.bundle, original.open, images, origin="onnx", stage="import", progress=progress
        )
    return result


def _class_names(labels: tuple[str, ...] | None, classes: ClassOutput) -> tuple[str, ...] | None:
    if labels is not None and len(labels) != classes.num_classes:
        raise ConfigError(
            f"{len(labels)} class names for the {classes.num_classes} numbers of output "
            f"{classes.name}"
        )
    return labels


def _recorded(bundle: Bundle) -> ImportResult:
    recorded = model_record(bundle)

    def parity(value: Mapping[str, Any]) -> Parity:
        return decode(Parity, dict(value), f"{bundle.path}: parity")

    return ImportResult(
        bundle=bundle,
        parity=parity(recorded.parity),
        probabilities=None if recorded.probabilities is None else parity(recorded.probabilities),
        nodes=dict(recorded.nodes),
        notes=recorded.notes,
        cached=True,
    )


def _import(
    original: ForeignClassifier,
    bundle: Bundle,
    images: ImageSource,
    labels: NDArray[np.int64] | None,
    record: Record,
    assumed: tuple[str, ...],
    progress: Progress,
) -> ImportResult:
    classes, spec = original.classes, original.spec
    with progress.task("import", total=3) as task:
        pixels, golden_labels = golden_images(images, spec, labels)
        feed = {"input": spec.to_input(pixels)}
        with original.open() as session:
            expected = session.run(feed)
        reference = expected[classes.logits]
        if not np.isfinite(reference).all():
            raise ExportError(
                "the original model gives NaN or infinity on the golden images",
                hint="check the preprocessing: --mean --std --color",
            )
        task.advance(status="normalize")
        own = converted(original, reference, feed["input"])
        task.advance(status="verify")
        parity = compare_logits(reference, own.logits)
        probabilities, left_out = None, list[str]()
        if classes.activation is not None:
            left_out = [f"the final {classes.activation} is left out: bundles compare logits"]
            probabilities = compare_logits(expected[classes.name], classes.apply(own.logits))
        task.advance()
    if not parity.accepted or (probabilities is not None and not probabilities.accepted):
        raise ExportError(
            f"the normalised model differs from the original: max|Δ| {parity.max_abs:.3g} at "
            f"max|logit| {parity.max_logit:.3g}, same class on {parity.argmax_equal} of "
            f"{parity.n} images",
            hint=f"try resnet-edge export {original.path} --no-simplify; if that fails too, "
            "please report it",
        )
    bundle = Bundle.create(
        bundle.path, replace(bundle.model, parameters=own.result.parameters, macs=own.result.macs)
    )
    write_metadata(own.result.model, bundle.model)
    nodes, notes = dict(own.result.nodes), (*assumed, *left_out, *own.notes)
    details: dict[str, Any] = {
        "parity": asdict(parity),
        "probabilities": None if probabilities is None else asdict(probabilities),
        "nodes": nodes,
        "notes": list(notes),
        "input": original.source.name,
    }
    save_model(
        bundle, own.result.model, Golden(pixels, reference, golden_labels), images, record, details
    )
    return ImportResult(bundle, parity, probabilities, nodes, notes, cached=False)
