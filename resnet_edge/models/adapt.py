"""Bring the tensors of any source under our names and into our layers' shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from resnet_edge.errors import CheckpointError
from resnet_edge.models.naming import Naming, canonical_names, find_naming, other_network

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Adapted", "Head", "adapt"]

Head = Literal["fc", "none", "auto"]
_PROJECTION = re.compile(r"(.*\.downsample)\.([01])\.(.*)")


@dataclass(frozen=True)
class Adapted:
    """Tensors under our names.

    Attributes:
        state_dict: Not yet checked against any network.
        source: Whose names they had.
        notes: What was stripped, renamed, ignored or chosen.
    """

    state_dict: dict[str, Tensor]
    source: str
    notes: tuple[str, ...]


def adapt(tensors: Mapping[str, Tensor], head: Head) -> Adapted:
    """Find the one residual network among the tensors and bring it under our names.

    Only names and numbers of dimensions are looked at, no values.

    Args:
        tensors: As they were saved.
        head: ``fc`` wants a classifier, ``none`` drops it, ``auto`` takes what is there.

    Raises:
        CheckpointError: They are no ResNet's, or several, or lack a classifier.
    """
    naming, notes = _naming(tensors)
    kept, renamed = canonical_names(naming, tensors)
    if naming.prefix:
        notes.append(f"prefix {naming.prefix!r} stripped")
    outside = [k for k in tensors if not k.startswith(naming.prefix)]
    if outside:
        shown = ", ".join(outside[:5]) + (" …" if len(outside) > 5 else "")
        notes.append(f"{len(outside)} tensors outside {naming.prefix!r} ignored: {shown}")
    if renamed:
        first, to = next(iter(renamed.items()))
        notes.append(f"{len(renamed)} tensors renamed, such as {first} to {to}")
    if ignored := len(tensors) - len(outside) - len(kept):
        notes.append(f"{ignored} counters of a profiler ignored")
    if head == "none" or (head == "auto" and "fc.weight" not in kept):
        dropped = [k for k in kept if k.startswith("fc.")]
        kept = {k: v for k, v in kept.items() if k not in dropped}
        left_out = " (left out)" if dropped else ""
        notes.append(f"no classifier{left_out}: the output is the pooled features")
    elif "fc.weight" not in kept:
        _refuse_headless(naming, outside)
    return Adapted(_fit_layers(kept), naming.dialect.source, tuple(notes))


def _naming(tensors: Mapping[str, Tensor]) -> tuple[Naming, list[str]]:
    holds = f"it holds {', '.join(sorted(tensors)[:5]) or 'no tensors'}"
    namings = find_naming(list(tensors))
    inside = namings[0].prefix if namings else ""
    kind = other_network(k for k in tensors if k.startswith(inside))
    if kind is not None:
        raise CheckpointError(f"not a ResNet: its names are those of {kind}", hint=holds)
    if not namings:
        raise CheckpointError("not a ResNet: it has no layer1.0.conv1.weight", hint=holds)
    if len(namings) == 1:
        return namings[0], []
    averaged = [n for n in namings if "ema" in n.prefix.lower()]
    if len(averaged) == 1:
        return averaged[0], [f"the averaged (EMA) weights {averaged[0].prefix!r} are taken"]
    prefixes = ", ".join(repr(n.prefix) for n in namings)
    raise CheckpointError(
        f"it holds {len(namings)} ResNets, at {prefixes}",
        hint="save the state dict of the one to deploy",
    )


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
