"""Checkpoint to verified ONNX, with the golden reference beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.pytorch import TorchSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.local import remember_path
from resnet_edge.bundle.manifest import ModelInfo, Record
from resnet_edge.bundle.names import GOLDEN, MODEL
from resnet_edge.bundle.provenance import model_record
from resnet_edge.bundle.reference import Evaluated, Golden
from resnet_edge.catalog.shipped import IMAGES, find
from resnet_edge.errors import CheckpointError, ConfigError, ExportError
from resnet_edge.export.normalize.simplify import OPSET, simplify
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
from resnet_edge.export.stride import choose_by_labels, choose_by_logits, read_known_logits
from resnet_edge.export.torch_onnx import torch_to_onnx
from resnet_edge.images.opening import open_images
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import IMAGENET, ImageSpec
from resnet_edge.models.checkpoint import Checkpoint, load_model, read_checkpoint
from resnet_edge.models.resnet_config import ResNetConfig
from resnet_edge.progress import SILENT, Progress
from resnet_edge.schema import decode

if TYPE_CHECKING:
    from resnet_edge.models.resnet import ResNet

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


@dataclass(frozen=True)
class ExportConfig:
    """How to export.

    Attributes:
        arch: Name in the zoo, or ``auto``.
        head: ``fc``, or ``none`` to end at the pooled features.
        input: ``float`` for normalised NCHW, ``uint8`` for raw NHWC with cast and normalisation
            inside the graph.
        simplify: Run onnxsim.
        stride_in_1x1: Bottleneck stride placement; None takes what the checkpoint says, or finds
            it out with ``known_logits`` or labelled images.
        image_spec: Preprocessing that overrides the checkpoint's. A function is given the
            checkpoint's, or ImageNet's where it has none, and returns what is taken.
        known_logits: ``.npz`` file with inputs and the logits that the network must reproduce.
    """

    arch: str = "auto"
    head: Literal["fc", "none"] = "fc"
    input: Literal["float", "uint8"] = "float"
    simplify: bool = True
    stride_in_1x1: bool | None = None
    image_spec: ImageSpec | Callable[[ImageSpec], ImageSpec] | None = None
    known_logits: Path | None = None


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
        checkpoint_path: safetensors or PyTorch file, index of shards, or directory.
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
        checkpoint_path,
        arch=config.arch,
        stride_in_1x1=config.stride_in_1x1,
        head=config.head,
    )
    spec = _image_spec(checkpoint, config)
    golden_source = images or open_images(find(f"{IMAGES}/test"))
    # Labels that cannot belong to the model are found before anything is written.
    classifies = checkpoint.config.num_classes > 0
    labels = labels_for(
        golden_source, _model_info(checkpoint, spec), required=images is not None and classifies
    )
    labels = labels if classifies else None
    if config.known_logits is not None:
        checkpoint = choose_by_logits(checkpoint, read_known_logits(config.known_logits))
    elif images is not None and labels is not None:
        checkpoint = choose_by_labels(checkpoint, spec, images, labels, progress=progress)
    model = load_model(checkpoint)
    bundle = Bundle.create(output, _model_info(checkpoint, spec))
    remember_path("checkpoints", checkpoint.sha256, checkpoint.path)
    record = Record(
        stage="export",
        config={
            "simplify": config.simplify, "image_spec": spec.to_json(), "opset": OPSET,
            "network": json.loads(json.dumps(asdict(checkpoint.config))),
        },
        inputs={"checkpoint": checkpoint.sha256, "images": fingerprint(golden_source)},
    )  # fmt: skip
    remember_path("images", record.inputs["images"], golden_source.path)
    if bundle.is_fresh(MODEL, record) and GOLDEN in bundle.names():
        recorded = model_record(bundle)
        parity = decode(Parity, dict(recorded.parity), f"{output}: parity")
        result = ExportResult(bundle, parity, dict(recorded.nodes), checkpoint.notes, cached=True)
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
    recorded = model_record(bundle).network
    if recorded is None:
        raise CheckpointError(
            f"{bundle.path} was made from an ONNX file, which has no PyTorch model",
            hint="its reference is the ONNX file itself",
        )
    network = ResNetConfig.from_json(dict(recorded))
    checkpoint = read_checkpoint(path, head="fc" if network.num_classes else "none")
    return load_model(replace(checkpoint, config=network))


def store_evaluation(
    bundle: Bundle, model: ResNet, images: ImageSource, *, progress: Progress = SILENT
) -> Evaluated:
    """Compute PyTorch's logits for every image and keep them in the bundle."""
    return store_logits(
        bundle, lambda: TorchSession(model, bundle.model.image_spec), images,
        origin="pytorch", stage="export", progress=progress,
    )  # fmt: skip


def _image_spec(checkpoint: Checkpoint, config: ExportConfig) -> ImageSpec:
    spec = config.image_spec or checkpoint.image_spec
    if spec is None:
        raise ConfigError(
            f"{checkpoint.path} takes {checkpoint.config.in_channels} channels, and nothing says "
            "how its images are prepared",
            hint="pass --resize --crop --mean --std --color",
        )
    if not isinstance(spec, ImageSpec):
        spec = spec(checkpoint.image_spec or IMAGENET)
    return replace(spec, input=config.input)


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
    info, spec = bundle.model, bundle.model.image_spec
    with progress.task("export", total=3) as task:
        onnx_model = torch_to_onnx(model, spec)
        task.advance(status="simplify")
        simplified = simplify(onnx_model, fold=config.simplify)
        write_metadata(simplified.model, info)
        task.advance(status="verify")
        pixels, golden_labels = golden_images(source, spec, labels)
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
    details = {"parity": asdict(parity), "nodes": dict(simplified.after)}
    golden = Golden(pixels, reference, golden_labels)
    save_model(bundle, simplified.model, golden, source, record, details, ("torch",))
    return ExportResult(bundle, parity, dict(simplified.after), checkpoint.notes, cached=False)


def _model_info(checkpoint: Checkpoint, spec: ImageSpec) -> ModelInfo:
    from resnet_edge.models.resnet import count_macs, without_weights

    model = without_weights(checkpoint.config)
    return ModelInfo(
        architecture=checkpoint.architecture,
        num_classes=checkpoint.config.outputs,
        labels=checkpoint.labels,
        image_spec=spec,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, (spec.channels, *spec.crop)),
        source=checkpoint.path.name,
        source_sha256=checkpoint.sha256,
    )
