"""``trtexec --layerPrecisions``: which layer runs in which precision, as text.

The grammar, as trtexec's help states it and its option parser (8.6 to 10.16) reads it::

    spec           ::= layerPrecision ["," spec]
    layerPrecision ::= layerName ":" precision
    precision      ::= "fp32" | "fp16" | "bf16" | "int32" | "int8"

A name may be put in single quotes and may contain colons; there is no way to write a comma or a
quote in it. Later entries override earlier ones of the same name. ``*`` stands for any text, once
in a name (TensorRT 8 only knows the name ``*``, for all other layers). TensorRT 11 and RTX have no
such option: there the graph says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from onnx import GraphProto

from resnet_edge.errors import ConfigError
from resnet_edge.graph.operators import WEIGHTED

__all__ = [
    "LayerPrecision",
    "format_layer_precisions",
    "layers_in_float",
    "parse_layer_precisions",
    "precisions_of",
]

LayerPrecision = Literal["fp32", "fp16", "bf16", "int32", "int8"]

_PRECISIONS: dict[str, LayerPrecision] = {p: p for p in get_args(LayerPrecision)}
_WILDCARD = "*"
_UNWRITABLE = {",": "a comma", "'": "a quote", "\n": "a line break"}


def format_layer_precisions(precisions: Mapping[str, LayerPrecision]) -> str:
    """Return the option's value.

    Args:
        precisions: By layer name or pattern, in the order to be written.

    Raises:
        ConfigError: A name cannot be written in this grammar, or a precision does not exist.
    """
    return ",".join(f"{name}:{_checked(name, p)}" for name, p in precisions.items())


def parse_layer_precisions(text: str) -> dict[str, LayerPrecision]:
    """Read the option's value: precision by layer name or pattern.

    Raises:
        ConfigError: It breaks the grammar.
    """
    found: dict[str, LayerPrecision] = {}
    for entry in text.split(",") if text else ():
        if entry.startswith("'"):
            name, separator, precision = entry[1:].partition("':")
        else:
            name, separator, precision = entry.rpartition(":")
        if not separator:
            raise ConfigError(
                f"--layerPrecisions: {entry!r} is not 'layer:precision'",
                hint="a layer name with a comma cannot be written; use a pattern with *",
            )
        found.pop(name, None)
        found[name] = _checked(name, precision)
    return found


def precisions_of(
    layers: Iterable[str], precisions: Mapping[str, LayerPrecision]
) -> dict[str, LayerPrecision]:
    """Return which layers get which precision; those that no entry matches are left out.

    A layer's own name goes before any pattern.

    Raises:
        ConfigError: Patterns disagree on a layer: trtexec then takes any of them.
    """
    patterns = {name: p for name, p in precisions.items() if _WILDCARD in name}
    found: dict[str, LayerPrecision] = {}
    for layer in layers:
        if layer in precisions:
            found[layer] = precisions[layer]
            continue
        matching = {name: p for name, p in patterns.items() if _matches(name, layer)}
        if len(set(matching.values())) > 1:
            raise ConfigError(
                f"--layerPrecisions: {', '.join(matching)} disagree on the layer {layer}",
                hint="name this layer itself: that goes before any pattern",
            )
        if matching:
            found[layer] = next(iter(matching.values()))
    return found


def layers_in_float(graph: GraphProto, precisions: Mapping[str, LayerPrecision]) -> list[str]:
    """Return the layers that could be INT8 and are not to be, in graph order.

    Whether they run in FP16 or FP32 is the build's choice for all of them.

    Raises:
        ConfigError: An entry names no node, asks for INT8 where there is none, or for a type that
            no graph here has.
    """
    nodes = {n.name: n.op_type for n in graph.node}
    for name in precisions:
        if not any(_matches(name, node) if _WILDCARD in name else name == node for node in nodes):
            raise ConfigError(
                f"--layer-precisions: the model has no layer {name}",
                hint=f"its layers are {', '.join(n for n, op in nodes.items() if op in WEIGHTED)}",
            )
    found = precisions_of(nodes, precisions)
    for name, precision in found.items():
        impossible = nodes[name] not in WEIGHTED and precision == "int8" and name in precisions
        if impossible or precision in ("bf16", "int32"):
            raise ConfigError(
                f"--layer-precisions: {nodes[name]} {name} cannot be {precision}",
                hint="int8 is for Conv and Gemm; fp16 and fp32 leave a layer in float",
            )
    return [n for n, p in found.items() if nodes[n] in WEIGHTED and p != "int8"]


def _matches(pattern: str, layer: str) -> bool:
    before, _, after = pattern.partition(_WILDCARD)
    fits = len(layer) >= len(before) + len(after)
    return fits and layer.startswith(before) and layer.endswith(after)


def _checked(name: str, precision: str) -> LayerPrecision:
    """Return the precision, after making sure that the grammar has both."""
    if precision not in _PRECISIONS:
        raise ConfigError(
            f"--layerPrecisions: {name} has the unknown precision {precision!r}",
            hint=f"known: {', '.join(_PRECISIONS)}",
        )
    unwritable = next((what for sign, what in _UNWRITABLE.items() if sign in name), None)
    if not name or unwritable:
        raise ConfigError(
            f"--layerPrecisions cannot name the layer {name!r}: "
            + (f"{unwritable} in it" if unwritable else "the name is empty"),
            hint="rename the node in the ONNX file, or use a pattern with *",
        )
    if name.count(_WILDCARD) > 1:
        raise ConfigError(
            f"--layerPrecisions: {name!r} has more than one *",
            hint="trtexec takes one * per name",
        )
    return _PRECISIONS[precision]
