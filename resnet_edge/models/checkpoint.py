"""The one way in: read a checkpoint safely, find out what it holds, load it exactly.

``formats`` turns files into tensors by name, ``adapt`` brings them under our names, ``identify``
finds the network, ``metadata`` what was recorded beside the weights. A checkpoint is hostile until
every tensor has been checked against the network it claims to be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import CheckpointError
from resnet_edge.files import write_bytes
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.adapt import Head, adapt
from resnet_edge.models.formats import OWN_METADATA, Contents, read_contents
from resnet_edge.models.identify import Identified, compare, identify, name_of, nearest
from resnet_edge.models.metadata import (
    image_spec_of,
    labels_of,
    recorded_config,
    recorded_stride,
    refuse_variants,
)
from resnet_edge.models.resnet_config import ResNetConfig
from resnet_edge.models.zoo import architecture

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_edge.models.resnet import ResNet

__all__ = ["Checkpoint", "Head", "load_model", "read_checkpoint", "save_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, identified and checked.

    Attributes:
        path: The file or directory.
        sha256: Hash of what was read.
        architecture: Name in the zoo, or a description where the zoo has none.
        config: What the network is built from.
        state_dict: Parameters and buffers under torchvision's names, float32.
        image_spec: Preprocessing the network was trained with; None if it cannot be guessed.
        image_spec_source: Who recorded it; None for a default.
        labels: Class names, or None.
        source_format: Where it comes from, for people.
        stride_known: Whether the placement of a bottleneck's stride is recorded, given, or moot.
        evidence: Why it is this architecture.
        notes: What was assumed, renamed or stripped.
    """

    path: Path
    sha256: str
    architecture: str
    config: ResNetConfig
    state_dict: Mapping[str, Tensor]
    image_spec: ImageSpec | None
    image_spec_source: str | None
    labels: tuple[str, ...] | None
    source_format: str
    stride_known: bool
    evidence: tuple[str, ...]
    notes: tuple[str, ...]


def read_checkpoint(
    path: Path, *, arch: str = "auto", stride_in_1x1: bool | None = None, head: Head = "fc"
) -> Checkpoint:
    """Read a checkpoint and find out which ResNet it holds.

    Args:
        path: A safetensors or PyTorch file, an index of shards, or a Hugging Face directory.
        arch: A name of the zoo that overrides what metadata and shapes say; ``auto`` trusts them.
        stride_in_1x1: Bottleneck stride placement (v1 if True); default as recorded, else v1.5.
        head: ``fc`` wants a classifier, ``none`` drops it so that the network ends at its pooled
            features, ``auto`` takes what is there.

    Raises:
        CheckpointError: The file is missing, unsafe, truncated, or not a ResNet.
        ConfigError: ``arch`` is unknown.
    """
    contents = read_contents(path)
    try:
        return _checkpoint(path, contents, arch, stride_in_1x1, head)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error


def _checkpoint(
    path: Path, contents: Contents, arch: str, stride_in_1x1: bool | None, head: Head
) -> Checkpoint:
    refuse_variants(contents)
    adapted = adapt(contents.tensors, head)
    notes = [*contents.notes, *adapted.notes]
    state_dict, widened = _checked(adapted.state_dict)
    if widened:
        notes.append("half-precision weights widened to float32")
    found = _identify(contents, state_dict, arch)
    config = found.config
    recorded = recorded_stride(contents)
    stride = recorded if stride_in_1x1 is None else stride_in_1x1
    known = stride is not None or "config" in contents.own or config.block == "basic"
    if stride is not None:
        config = replace(config, stride_in_1x1=stride)
    if not known:
        notes.append("v1.5 assumed (stride in the 3x3); pass --stride-in-1x1 for v1")
    notes += found.assumed
    _check_against(config, found.name, state_dict)
    images = image_spec_of(contents, config)
    labels, ignored = labels_of(contents, config.num_classes) if config.num_classes else (None, ())
    return Checkpoint(
        path=path,
        sha256=contents.sha256,
        architecture=found.name,
        config=config,
        state_dict=state_dict,
        image_spec=images.spec,
        image_spec_source=images.source,
        labels=labels,
        source_format=contents.source
        if contents.own
        else f"{contents.source}, names of {adapted.source}",
        stride_known=known,
        evidence=found.evidence,
        notes=(*notes, *images.notes, *ignored),
    )


def load_model(checkpoint: Checkpoint) -> ResNet:
    """Build the network and load the weights strictly, in evaluation mode.

    Raises:
        CheckpointError: Keys or shapes do not fit.
    """
    import torch

    from resnet_edge.models.resnet import without_weights

    try:
        _check_against(checkpoint.config, checkpoint.architecture, checkpoint.state_dict)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error.message}", hint=error.hint) from error
    model = without_weights(checkpoint.config).to_empty(device="cpu")
    counters = {k: torch.tensor(0) for k in model.state_dict() if k.endswith("num_batches_tracked")}
    model.load_state_dict({**counters, **checkpoint.state_dict})
    return model.eval()


def save_checkpoint(
    path: Path,
    model: ResNet,
    *,
    name: str,
    image_spec: ImageSpec,
    labels: tuple[str, ...] | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write weights as safetensors with everything needed to use them in the metadata."""
    from safetensors.torch import save

    metadata = {
        "schema": 1,
        "architecture": name,
        "config": asdict(model.config),
        "image_spec": image_spec.to_json(),
        "labels": None if labels is None else list(labels),
        "provenance": dict(provenance),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_bytes(path, save(tensors, {"format": "pt", OWN_METADATA: json.dumps(metadata)}))


def _checked(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Return the weights as float32, and whether some were narrower.

    Raises:
        CheckpointError: Something is not plain finite weights.
    """
    import torch

    for key, tensor in state_dict.items():
        integer = key.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{key} is not a plain dense tensor")
        if not integer and not tensor.is_floating_point():
            raise CheckpointError(
                f"{key} holds {tensor.dtype}, not floating-point weights",
                hint="quantized checkpoints cannot be exported; start from the float model",
            )
        # A tensor can claim any shape over a small storage; a real weight fills its storage.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{key} claims shape {tuple(tensor.shape)} without data")
        if not integer and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{key} contains NaN or infinity", hint="the training diverged")
    widened = any(v.is_floating_point() and v.element_size() < 4 for v in state_dict.values())
    weights = {k: v.float() if v.is_floating_point() else v for k, v in state_dict.items()}
    return weights, widened


def _identify(contents: Contents, state_dict: Mapping[str, Tensor], arch: str) -> Identified:
    found = identify({k: tuple(v.shape) for k, v in state_dict.items()})
    if arch != "auto":
        config = architecture(
            arch, num_classes=found.config.num_classes, in_channels=found.config.in_channels
        )
        config = replace(config, num_classes=found.config.num_classes)
        return replace(found, config=config, name=arch, evidence=("--arch",), assumed=())
    recorded = recorded_config(contents)
    if recorded is None:
        return found
    if not found.config.num_classes:
        recorded = replace(recorded, num_classes=0)
    keys = ("layers", "widths", "in_channels", "num_classes")
    if any(getattr(recorded, key) != getattr(found.config, key) for key in keys):
        raise CheckpointError("the recorded network does not fit the weights")
    name = str(contents.own.get("architecture", name_of(recorded)))
    evidence = ("recorded by resnet-edge", *found.evidence)
    return replace(found, config=recorded, name=name, evidence=evidence, assumed=())


def _check_against(config: ResNetConfig, name: str, state_dict: Mapping[str, Tensor]) -> None:
    shapes = {k: tuple(v.shape) for k, v in state_dict.items()}
    mismatch = compare(config, shapes)
    if mismatch.distance:
        statistics = ("running_mean", "running_var")
        if mismatch.missing and all(k.endswith(statistics) for k in mismatch.missing):
            raise CheckpointError(
                f"not a {name}: its normalisation keeps no running statistics, as group norm does",
                hint="only batch normalisation folds into the convolutions before it",
            )
        candidates = ((name, mismatch.distance), nearest(shapes))
        closest, distance = min(candidates, key=lambda candidate: candidate[1])
        raise CheckpointError(
            f"not a {name}: {mismatch}; nearest is {closest}, {distance} names away",
            hint="pass the right --arch, or convert the checkpoint to torchvision's names",
        )
