"""A graph for a parser that knows older operators only: the same nodes under an older opset."""

from __future__ import annotations

from onnx import helper

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.manifest import Record
from resnet_edge.errors import ConfigError, GraphError
from resnet_edge.graph.onnx_model import load_graph, save_graph
from resnet_edge.graph.relabel import opset_of, set_opset

__all__ = ["relabelled_name", "within_opset"]


def within_opset(bundle: Bundle, source: str, newest: int | None) -> str:
    """Return a graph that a parser reads: the given one, else a relabelled copy of it.

    Args:
        bundle: Holds the graph.
        source: Its relative path.
        newest: Opset that the parser reads at most; None if that is not known.

    Raises:
        ConfigError: An operator, a type or an attribute in the graph is newer than that.
    """
    if newest is None:
        return source
    model = load_graph(bundle.artifact(source))
    had = opset_of(model)
    name = relabelled_name(source, had, newest)
    if name == source:
        return source
    record = Record("relabel", config={"opset": newest}, inputs={"onnx": bundle.sha256(source)})
    if bundle.is_fresh(name, record):
        return name
    try:
        set_opset(model, newest, _ir_version(newest))
        save_graph(model, bundle.file(name))
    except GraphError as error:
        raise ConfigError(
            f"{source} has opset {had}, this TensorRT reads {newest} at most: {error.message}",
            hint=f"write the ONNX file it came from with opset {newest} and import it again; or, "
            "if this TensorRT reads more, correct opset_max in the target",
        ) from error
    bundle.record(name, record)
    return name


def relabelled_name(source: str, opset: int, newest: int | None) -> str:
    """Return the relative path of the graph that a parser gets; the same where it reads that.

    Args:
        source: Relative path of the graph.
        opset: Of the graph.
        newest: Opset that the parser reads at most; None if that is not known.
    """
    if newest is None or opset <= newest:
        return source
    return f"{source.removesuffix('.onnx')}-opset{newest}.onnx"


def _ir_version(opset: int) -> int:
    """Return the oldest file format that can hold an opset; old parsers know no newer one."""
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))
