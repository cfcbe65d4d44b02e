"""Checkpoint to verified ONNX, with the golden reference beside it."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from resnet_edge.artifacts import sha256_json
from resnet_edge.bundle import Bundle, ModelInfo, Record
from resnet_edge.data import open_images, resolve_labels
from resnet_edge.errors import DataError, ExportError
from resnet_edge.graph import save_graph
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from resnet_edge.progress import SILENT
from resnet_edge.reference import GOLDEN, GOLDEN_COUNT, MODEL, Evaluated, Golden, run_all
from resnet_edge.resources import IMAGES, find
from resnet_edge.simplify import OPSET, simplify
from resnet_edge.torch_onnx import torch_to_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from resnet_edge.data import ImageSource
    from resnet_edge.imaging import ImageSpec
    from resnet_edge.models.checkpoint import Checkpoint
    from resnet_edge.models.resnet import ResNet
    from resnet_edge.progress import Progress

__all__ = [
    "MODEL",
    "ExportConfig",
    "ExportResult",
    "Parity",
    "compare_logits",
    "export",
    "reload_model",
    "store_evaluation",
]

log = logging.getLogger(__name__)

# Accepted difference, relative to the largest logit (DESIGN: checkpoints and parity).
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportConfig:
    """How to export.

    Attributes:
        arch: Name in the zoo, or ``auto``.
        input: ``float`` for normalised NCHW, ``uint8`` for raw NHWC with cast and normalisation
            inside the graph.
        simplify: Run onnxsim.
        stride_in_1x1: Bottleneck stride placement; None takes what the checkpoint says.
        image_spec: Preprocessing that overrides the checkpoint's.
    """

    arch: str = "auto"
    input: Literal["float", "uint8"] = "float"
    simplify: bool = True
    stride_in_1x1: bool | None = None
    image_spec: ImageSpec | None = None


@dataclass(frozen=True)
class Parity:
    """How closely one model follows another on the same images.

    Attributes:
        n: Images compared.
        max_abs: Largest difference of any logit.
        max_logit: Largest magnitude of any reference logit.
        argmax_equal: Images on which both predict the same class.
    """

    n: int
    max_abs: float
    max_logit: float
    argmax_equal: int

    @property
    def accepted(self) -> bool:
        """Whether the models count as equal."""
        return self.max_abs <= TOLERANCE * self.max_logit and self.argmax_equal == self.n


@dataclass(frozen=True)
class ExportResult:
    """A bundle with a verified model.

    Attributes:
        bundle: Where it is.
        parity: ONNX Runtime against PyTorch on the golden images.
        nodes: Number of nodes by operator.
        notes: What was assumed about the checkpoint.
        cached: True if the bundle already held this very export.
    """

    bundle: Bundle
    parity: Parity
    nodes: dict[str, int]
    notes: tuple[str, ...]
    cached: bool


def export(
    checkpoint_path: Path,
    output: Path,
    config: ExportConfig | None = None,
    *,
    images: ImageSource | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Export a checkpoint into a bundle and prove the ONNX model equals the PyTorch model.

    Args:
        checkpoint_path: safetensors or PyTorch file.
        output: Directory of the bundle, new or existing.
        config: Options.
        images: Evaluation images: the golden ones are drawn from them, and the reference logits
            of all of them travel in the bundle. Default: golden images from the shipped set.
        progress: Listener.

    Raises:
        CheckpointError: The checkpoint is unusable.
        ExportError: The ONNX model differs from the PyTorch model.
        DataError: ``images`` cannot belong to this model.
    """
    config = config or ExportConfig()
    checkpoint = read_checkpoint(
        checkpoint_path, arch=config.arch, stride_in_1x1=config.stride_in_1x1
    )
    spec = replace(config.image_spec or checkpoint.image_spec, input=config.input)
    model = load_model(checkpoint)
    info = _model_info(checkpoint, model, spec)
    bundle = Bundle.create(output, info)
    golden_source = images or open_images(find(f"{IMAGES}/test"))
    # Labels that cannot belong to the model are found before anything is written.
    labels = _labels(golden_source, info, required=images is not None)
    record = Record(
        stage="export",
        config={
            "simplify": config.simplify, "image_spec": spec.to_json(), "opset": OPSET,
            "network": json.loads(json.dumps(asdict(checkpoint.config))),
        },
        inputs={"checkpoint": checkpoint.sha256, "images": _fingerprint(golden_source)},
    )  # fmt: skip
    if bundle.is_fresh(MODEL, record) and GOLDEN in bundle.names():
        details = bundle.entry(MODEL)["details"]
        result = ExportResult(
            bundle, Parity(**details["parity"]), details["nodes"], checkpoint.notes, cached=True
        )
    else:
        result = _export(checkpoint, model, bundle, golden_source, labels, config, record, progress)
    if images is not None:
        store_evaluation(bundle, model, images, progress=progress)
    return result


def reload_model(bundle: Bundle, path: Path) -> ResNet:
    """Load the bundle's checkpoint again, as the network it was exported as.

    Raises:
        CheckpointError: The checkpoint is unusable.
    """
    from resnet_edge.models.resnet import ResNetConfig

    network = ResNetConfig.from_json(bundle.entry(MODEL)["config"]["network"])
    return load_model(replace(read_checkpoint(path), config=network))


def store_evaluation(
    bundle: Bundle, model: ResNet, images: ImageSource, *, progress: Progress = SILENT
) -> Evaluated:
    """Compute PyTorch's logits for every image and keep them in the bundle."""
    from resnet_edge.backends.pytorch import TorchSession

    spec = bundle.model.image_spec
    known = Evaluated.load(bundle)
    keys = [images.key(i) for i in range(len(images))]
    if known is not None and known.lookup(keys) is not None:
        return known
    logits, kept, _ = run_all(
        TorchSession(model, spec), images, spec, label="PyTorch reference", progress=progress
    )
    evaluated = Evaluated(tuple(keys[i] for i in kept), logits, "pytorch")
    evaluated.save(
        bundle,
        Record(
            stage="export",
            config={"image_spec": spec.to_json()},
            inputs={
                "source": bundle.model.source_sha256,
                "model": bundle.sha256(MODEL),
                "images": sha256_json(keys),
            },
        ),
    )
    return evaluated


def compare_logits(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Parity:
    """Compare two sets of logits, N x classes each."""
    import numpy as np

    return Parity(
        n=len(reference),
        max_abs=float(np.abs(reference - candidate).max()),
        max_logit=float(np.abs(reference).max()),
        argmax_equal=int((reference.argmax(1) == candidate.argmax(1)).sum()),
    )


def _export(
    checkpoint: Checkpoint,
    model: ResNet,
    bundle: Bundle,
    source: ImageSource,
    labels: NDArray[np.int64] | None,
    config: ExportConfig,
    record: Record,
    progress: Progress,
) -> ExportResult:
    import numpy as np
    import onnx

    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
    from resnet_edge.backends.pytorch import TorchSession

    info, spec = bundle.model, bundle.model.image_spec
    with progress.task("export", total=3) as task:
        onnx_model = torch_to_onnx(model, spec)
        task.advance(status="simplify")
        simplified = simplify(onnx_model, fold=config.simplify)
        _write_metadata(simplified.model, info)
        task.advance(status="verify")
        indices = np.linspace(0, len(source) - 1, min(GOLDEN_COUNT, len(source)), dtype=int)
        pixels, kept = _golden_pixels(source, spec, indices.tolist())
        feed = {"input": spec.to_input(pixels)}
        reference = TorchSession(model, spec).run(feed)["logits"]
        with OnnxRuntimeSession(simplified.model) as session:
            parity = compare_logits(reference, session.run(feed)["logits"])
        task.advance()
    if not parity.accepted:
        raise ExportError(
            f"the ONNX model differs from PyTorch: max|Δ| {parity.max_abs:.3g} at max|logit| "
            f"{parity.max_logit:.3g}, same class on {parity.argmax_equal} of {parity.n} images",
            hint="run again with --no-simplify; if that fails too, please report it",
        )
    save_graph(simplified.model, bundle.file(MODEL))
    tools = {m.__name__: m.__version__ for m in (_module("torch"), _module("onnxruntime"), onnx)}
    details: dict[str, Any] = {"parity": asdict(parity), "nodes": dict(simplified.after)}
    details["data"] = str(source.path.resolve())
    bundle.record(MODEL, replace(record, tools=tools, details=details))
    golden_labels = np.full(len(kept), -1) if labels is None else labels[kept]
    Golden(pixels, reference, golden_labels.astype(np.int64)).save(
        bundle, replace(record, tools=tools)
    )
    return ExportResult(bundle, parity, dict(simplified.after), checkpoint.notes, cached=False)


def _write_metadata(model: ModelProto, info: ModelInfo) -> None:
    from onnx import helper

    helper.set_model_props(
        model,
        {
            "resnet_edge.architecture": info.architecture,
            "resnet_edge.image_spec": json.dumps(info.image_spec.to_json()),
            "resnet_edge.labels": json.dumps(info.labels),
            "resnet_edge.source_sha256": info.source_sha256,
        },
    )
    model.producer_name = "resnet-edge"
    model.graph.name = info.architecture


def _model_info(checkpoint: Checkpoint, model: ResNet, spec: ImageSpec) -> ModelInfo:
    from resnet_edge.models.resnet import count_macs

    return ModelInfo(
        architecture=checkpoint.architecture,
        num_classes=checkpoint.config.num_classes,
        labels=checkpoint.labels,
        image_spec=spec,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, (spec.channels, *spec.crop)),
        source=str(checkpoint.path.resolve()),
        source_sha256=checkpoint.sha256,
    )


def _labels(source: ImageSource, info: ModelInfo, *, required: bool) -> NDArray[np.int64] | None:
    try:
        return resolve_labels(source, class_names=info.labels, num_classes=info.num_classes)
    except DataError:
        if required:
            raise
        return None  # the shipped images only serve to compare numbers here


def _golden_pixels(
    source: ImageSource, spec: ImageSpec, indices: list[int]
) -> tuple[NDArray[np.uint8], list[int]]:
    import numpy as np

    from resnet_edge.batches import ImageBatches

    batches = list(ImageBatches(source, spec, len(indices), indices))
    if not batches:
        raise DataError(f"{source.path}: none of the golden images can be decoded")
    return np.concatenate([b.pixels for b in batches]), [i for b in batches for i in b.indices]


def _fingerprint(source: ImageSource) -> str:
    """Hash what is cheap to hash: the size of the set and a few of its images."""
    return sha256_json([len(source), source.key(0), source.key(len(source) - 1)])


def _module(name: str) -> Any:
    import importlib

    return importlib.import_module(name)
