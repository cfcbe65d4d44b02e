"""``resnet-edge quantize``."""

from __future__ import annotations

from typing import Annotated

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.errors import ConfigError
from resnet_edge.recipes import DEFAULT_RECIPE

__all__ = ["quantize"]


def quantize(
    bundle: options.BundleArgument,
    data: options.DataOption = None,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    graph: Annotated[
        str,
        typer.Option(help="int8 (every TensorRT), int8-fp16 (strongly typed), int8-cpu or fp16."),
    ] = "int8",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write an explicit Q/DQ graph (or the FP16 cast) into the bundle."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.bundle import Bundle
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.data import open_images
    from resnet_edge.graph import load_graph, opset_of
    from resnet_edge.quantize.stage import GRAPHS
    from resnet_edge.quantize.stage import quantize as run_quantize
    from resnet_edge.recipes import load_recipe

    if graph not in GRAPHS:
        raise ConfigError(f"unknown graph {graph!r}", hint=f"use one of {', '.join(GRAPHS)}")
    opened = Bundle.open(bundle)
    if data is not None:
        images = open_images(data, split="train")
        calibrate(opened, images, load_recipe(recipe), progress=out.progress)
    result = run_quantize(opened, graph)
    model = load_graph(result.path)
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    size, opset = result.path.stat().st_size, opset_of(model)
    out.result(
        {
            "model": str(result.path),
            "graph": graph,
            "quantize_nodes": pairs,
            "opset": opset,
            "bytes": size,
            "cached": result.cached,
        },
        lambda console: console.print(
            f"{result.path}: {pairs} Q/DQ pairs, opset {opset}, {size / 1e6:.2f} MB"
            + (" (unchanged)" if result.cached else "")
        ),
    )
