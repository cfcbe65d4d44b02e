"""The one way in: read a checkpoint safely, find out what it holds, load it exactly.

``formats`` turns files into tensors by name, ``names`` translates the names, ``identify`` finds the
network, ``metadata`` what was recorded beside the weights. A checkpoint is hostile until every
tensor has been checked against the network it claims to be.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from resnet_edge.artifacts import write_bytes
from resnet_edge.errors import CheckpointError
from resnet_edge.models.formats import OWN_METADATA, read_contents
from resnet_edge.models.identify import compare, identify, name_of, nearest
from resnet_edge.models.metadata import (
    image_spec_of,
    labels_of,
    recorded_config,
    recorded_stride,
    refuse_variants,
)
from resnet_edge.models.names import canonical_names, find_naming, other_network
from resnet_edge.models.zoo import architecture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from resnet_edge.imaging import ImageSpec
    from resnet_edge.models.formats import Contents
    from resnet_edge.models.identify import Identified
    from resnet_edge.models.names import Naming
    from resnet_edge.models.resnet import ResNet, ResNetConfig

__all__ = ["Checkpoint", "Head", "load_model", "read_checkpoint", "save_checkpoint"]

Head = Literal["fc", "none", "auto"]
_PROJECTION = re.compile(r"(.*\.downsample)\.([01])\.(.*)")


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
        ConfigError: ``arch`` is unknown, or the recorded preprocessing makes no sense.
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
    naming, state_dict, notes = _adapt(contents, head)
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
    spec, spec_source = image_spec_of(contents, config, notes)
    return Checkpoint(
        path=path,
        sha256=contents.sha256,
        architecture=found.name,
        config=config,
        state_dict=state_dict,
        image_spec=spec,
        image_spec_source=spec_source,
        labels=labels_of(contents, config.num_classes, notes) if config.num_classes else None,
        source_format=f"{contents.source}, names of {naming.dialect.source}",
        stride_known=known,
        evidence=found.evidence,
        notes=tuple(notes),
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


def _adapt(contents: Contents, head: Head) -> tuple[Naming, dict[str, Tensor], list[str]]:
    """Bring checked tensors under our names, in float32."""
    naming, notes = _naming(contents)
    notes = [*contents.notes, *notes]
    kept, renamed = canonical_names(naming, contents.tensors)
    if naming.prefix:
        notes.append(f"prefix {naming.prefix!r} stripped")
    outside = [k for k in contents.tensors if not k.startswith(naming.prefix)]
    if outside:
        shown = ", ".join(outside[:5]) + (" …" if len(outside) > 5 else "")
        notes.append(f"{len(outside)} tensors outside {naming.prefix!r} ignored: {shown}")
    if renamed:
        first, to = next(iter(renamed.items()))
        notes.append(f"{len(renamed)} tensors renamed, such as {first} to {to}")
    ignored = len(contents.tensors) - len(outside) - len(kept)
    if ignored:
        notes.append(f"{ignored} counters of a profiler ignored")
    if head == "none" or (head == "auto" and "fc.weight" not in kept):
        dropped = [k for k in kept if k.startswith("fc.")]
        kept = {k: v for k, v in kept.items() if k not in dropped}
        notes.append(
            f"no classifier{' (left out)' if dropped else ''}: the output is the pooled features"
        )
    elif "fc.weight" not in kept:
        _refuse_headless(naming, outside)
    _check_tensors(kept)
    if any(v.dtype.itemsize == 2 for v in kept.values() if v.is_floating_point()):
        notes.append("half-precision weights widened to float32")
    return naming, _fit_layers({k: _widened(v) for k, v in kept.items()}), notes


def _naming(contents: Contents) -> tuple[Naming, list[str]]:
    namings = find_naming(list(contents.tensors))
    kind = other_network(contents.tensors)
    if kind is not None:
        raise CheckpointError(f"not a ResNet: its names are those of {kind}", hint=_holds(contents))
    if not namings:
        raise CheckpointError(
            "not a ResNet: it has no layer1.0.conv1.weight", hint=_holds(contents)
        )
    averaged = [n for n in namings if "ema" in n.prefix.lower()]
    if len(namings) > 1 and len(averaged) != 1:
        prefixes = ", ".join(repr(n.prefix) for n in namings)
        raise CheckpointError(
            f"it holds {len(namings)} ResNets, at {prefixes}",
            hint="save the state dict of the one to deploy",
        )
    if len(namings) > 1:
        return averaged[0], [f"the averaged (EMA) weights {averaged[0].prefix!r} are taken"]
    return namings[0], []


def _holds(contents: Contents) -> str:
    return f"it holds {', '.join(sorted(contents.tensors)[:5]) or 'no tensors'}"


def _refuse_headless(naming: Naming, outside: list[str]) -> None:
    others = sorted({key.split(".")[0] for key in outside})
    if others:
        raise CheckpointError(
            f"it has no fc.weight: {naming.prefix!r} is the backbone of a larger model with "
            f"{', '.join(others[:5])}",
            hint="--head none exports the features alone",
        )
    raise CheckpointError(
        "it has no fc.weight, so it is a feature extractor",
        hint="--head none exports the features alone",
    )


def _check_tensors(state_dict: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not plain weights, before anything is computed from them."""
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


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _fit_layers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring the two layers that sources shape or number differently into our form."""
    pooled = any(k.endswith(".downsample.1.weight") and v.ndim == 4 for k, v in state_dict.items())
    result = {}
    for key, tensor in state_dict.items():
        name, value = key, tensor
        match = _PROJECTION.match(key)
        block = f"{match[1]}.0.weight" if match else ""
        if match and pooled and block in state_dict and state_dict[block].ndim == 4:
            # MMPretrain leaves out the pool of a first stage that keeps the resolution.
            name = f"{match[1]}.{int(match[2]) + 1}.{match[3]}"
        if re.search(r"\.se\.fc[12]\.weight$", key) and value.ndim == 2:
            value = value[:, :, None, None]  # a linear layer, as NVIDIA writes it
        result[name] = value
    return result


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
        closest, distance = nearest(shapes)
        raise CheckpointError(
            f"not a {name}: {mismatch}; nearest is {closest}, {distance} names away",
            hint="pass the right --arch, or convert the checkpoint to torchvision's names",
        )
