"""``resnet-edge quantize`` and ``resnet-edge sensitivity``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from resnet_edge.catalog.recipes import DEFAULT_RECIPE
from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag
from resnet_edge.cli.verify import GATE_NOT_MET
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.bundle.names import GraphKind
    from resnet_edge.quantize.budget import BudgetResult
    from resnet_edge.quantize.sensitivity import LayerSensitivity

__all__ = ["quantize", "sensitivity"]

log = logging.getLogger(__name__)


def quantize(
    bundle: options.BundleArgument,
    data: options.DataOption = None,
    labels: options.LabelsOption = None,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    graph: Annotated[
        str,
        typer.Option(help="int8 (every TensorRT), int8-fp16 (strongly typed), int8-cpu or fp16."),
    ] = "int8",
    max_drop: Annotated[
        float | None,
        typer.Option(min=0.0, help="Keep layers in FP16 until the drop is within these points."),
    ] = None,
    metric: Annotated[str, typer.Option(help="top1 or agreement.")] = "top1",
    keep_first_last: Annotated[
        bool,
        typer.Option(
            "--keep-first-last",
            help="Leave the first and last layer in float, in every graph until recalibration.",
        ),
    ] = False,
    layer_precisions: Annotated[
        str | None,
        typer.Option(
            help="As trtexec's --layerPrecisions, or a file with it: every layer that is not int8 "
            "there stays in float, in every graph until recalibration."
        ),
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write an explicit Q/DQ graph; with --max-drop, meet an accuracy budget and prove it."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.bundle.names import GRAPHS
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.recipes import load_recipe
    from resnet_edge.images.labels import resolve_labels
    from resnet_edge.images.opening import open_calibration, open_images
    from resnet_edge.quantize.budget import meet_budget
    from resnet_edge.quantize.search import Budget
    from resnet_edge.quantize.stage import load_table, store_float_layers

    if graph not in GRAPHS:
        raise ConfigError(f"unknown graph {graph!r}", hint=f"use one of {', '.join(GRAPHS)}")
    if metric not in ("top1", "agreement"):
        raise ConfigError(f"unknown metric {metric!r}", hint="use top1 or agreement")
    plans = {
        "--max-drop": max_drop is not None, "--keep-first-last": keep_first_last,
        "--layer-precisions": layer_precisions is not None,
    }  # fmt: skip
    if sum(plans.values()) > 1:
        raise ConfigError(
            f"{' and '.join(p for p, given in plans.items() if given)} each say which layers stay "
            "in float",
            hint="give only one of them",
        )
    if max_drop is not None and data is None:
        raise ConfigError("--max-drop is measured on images", hint="add --data DIR")
    options.refuse_labels_alone(labels, data)
    opened, chosen = options.open_bundle(bundle, out), load_recipe(recipe)
    if data is not None and (max_drop is None or not _is_calibrated(opened)):
        calibrate(opened, open_calibration(data, labels), chosen, progress=out.progress)
    elif recipe != DEFAULT_RECIPE and load_table(opened).recipe != chosen.to_json():
        raise ConfigError(
            f"{bundle} is calibrated already, and not by the recipe {chosen.name}",
            hint=f"to calibrate again: resnet-edge calibrate {bundle} --data DIR --recipe {recipe}",
        )
    result = None
    if data is not None and max_drop is not None:
        images = open_images(data, split="train", labels=labels)
        info = opened.model
        known = resolve_labels(images, class_names=info.labels, num_classes=info.num_classes)
        budget = Budget(max_drop, cast("Literal['top1', 'agreement']", metric))
        result = meet_budget(opened, images, known, budget, progress=out.progress)
    if keep_first_last:
        load_table(opened)  # says how to calibrate if there are no ranges to plan for
        store_float_layers(opened, {"keep_float": _first_and_last(opened)})
    if layer_precisions is not None:
        load_table(opened)
        store_float_layers(opened, {"keep_float": _in_float(opened, layer_precisions)})
    report = _write_graph(opened, graph)
    if result is not None:
        report |= result.to_json()
    out.result(report, lambda console: _render(console, report, result))
    if result is not None and not result.passed:
        raise typer.Exit(GATE_NOT_MET)


def sensitivity(
    bundle: options.BundleArgument,
    data: Annotated[Path, typer.Option(help="Images; those calibrated on are left out.")],
    plot: Annotated[
        Path | None, typer.Option(help="Picture; default reports/sensitivity.svg in the bundle.")
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Rank the layers by what INT8 does to each of them alone."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.bundle.names import SENSITIVITY
    from resnet_edge.images.opening import open_images
    from resnet_edge.quantize.budget import sensitivity as run_sensitivity
    from resnet_edge.report.plots import check_picture, plot_sensitivity

    opened = options.open_bundle(bundle, out)
    picture = plot or opened.file("reports/sensitivity.svg")
    check_picture(picture)
    ranking = run_sensitivity(opened, open_images(data), progress=out.progress)
    plot_sensitivity(ranking, picture)
    out.result(
        {
            "layers": [layer.to_json() for layer in ranking],
            "report": str(opened.file(SENSITIVITY)),
            "plot": str(picture),
        },
        lambda console: _render_ranking(console, ranking, picture),
    )


def _is_calibrated(bundle: Bundle) -> bool:
    from resnet_edge.errors import CalibrationError
    from resnet_edge.quantize.stage import load_table

    try:
        load_table(bundle)
    except CalibrationError:
        return False
    return True


def _first_and_last(bundle: Bundle) -> list[str]:
    from resnet_edge.bundle.names import MODEL
    from resnet_edge.graph.macs import layer_macs
    from resnet_edge.graph.onnx_model import load_graph
    from resnet_edge.graph.operators import WEIGHTED

    names = list(layer_macs(load_graph(bundle.artifact(MODEL)), WEIGHTED))
    return [names[0], names[-1]]


def _in_float(bundle: Bundle, given: str) -> list[str]:
    """Return the layers that trtexec's option, or a file with its value, leaves in float."""
    from resnet_edge.backends.trtexec.layer_precisions import (
        layers_in_float,
        parse_layer_precisions,
    )
    from resnet_edge.bundle.names import MODEL
    from resnet_edge.graph.onnx_model import load_graph

    if ":" not in given:  # no entry is without one, so it names a file
        try:
            given = ",".join(Path(given).read_text(encoding="utf-8").split("\n")).strip(",")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--layer-precisions: cannot read {given}: {error}",
                hint="write layer:precision,… or name a file that holds it",
            ) from error
    model = load_graph(bundle.artifact(MODEL))
    return layers_in_float(model.graph, parse_layer_precisions(given))


def _layer_precisions(bundle: Bundle) -> str | None:
    """Return trtexec's option for the stored plan; None where a name cannot be written in it."""
    from resnet_edge.backends.trtexec.layer_precisions import format_layer_precisions
    from resnet_edge.quantize.stage import float_layers

    try:
        return format_layer_precisions(dict.fromkeys(float_layers(bundle), "fp16"))
    except ConfigError as error:
        log.warning("%s", error.message)
        return None


def _write_graph(bundle: Bundle, graph: str) -> dict[str, Any]:
    from resnet_edge.graph.onnx_model import load_graph
    from resnet_edge.graph.operators import Q
    from resnet_edge.graph.relabel import opset_of
    from resnet_edge.quantize.stage import quantize as run_quantize

    result = run_quantize(bundle, cast("GraphKind", graph))
    model = load_graph(result.path)
    return {
        "model": str(result.path),
        "graph": graph,
        "quantize_nodes": sum(node.op_type == Q for node in model.graph.node),
        "opset": opset_of(model),
        "bytes": result.path.stat().st_size,
        "layer_precisions": _layer_precisions(bundle) if graph.startswith("int8") else "",
        "cached": result.cached,
    }


def _render(console: Console, report: dict[str, Any], result: BudgetResult | None) -> None:
    console.print(
        f"{report['model']}: {report['quantize_nodes']} Q/DQ pairs, opset {report['opset']}, "
        f"{report['bytes'] / 1e6:.2f} MB" + (" (unchanged)" if report["cached"] else "")
    )
    if report["layer_precisions"]:
        console.print(f"in float, for trtexec: --layerPrecisions={report['layer_precisions']}")
    if result is None:
        return
    from rich.table import Table

    grid = Table(title=f"search on {result.found.steps[0].comparison.n} images")
    for heading in ("layers in FP16", "drop", "upper 95 %", "gate"):
        grid.add_column(heading, justify="right")
    for step in result.found.steps:
        tried = step.comparison
        grid.add_row(
            str(step.kept), f"{tried.drop_points:+.2f}", f"{tried.upper95:.2f}", tried.outcome
        )
    console.print(grid)
    layers = {layer.name: layer for layer in result.ranking}
    for name in result.found.keep_float:
        layer = layers[name]
        kl = "" if layer.kl is None else f", KL alone {layer.kl:.2g}"
        console.print(
            f"in FP16: {name}, SQNR {layer.sqnr_db:.1f} dB{kl}, "
            f"{100 * layer.macs_share:.1f} % of the multiply-adds"
        )
    if not result.found.met:
        console.print(
            f"too few images to choose on: even in FP16 throughout, the limit is "
            f"{result.found.steps[-1].comparison.upper95:.2f}; all layers stay INT8"
        )
    if result.found.keep_float:
        console.print(
            f"expected latency {result.found.expected_slowdown:.2f} x full INT8, by multiply-adds"
        )
    proof = result.proof
    text = (
        f"{proof.outcome} on {proof.n} images used for nothing else: drop {proof.drop_points:+.2f} "
        f"points, upper 95 % limit {proof.upper95:.2f}, allowed {result.budget.max_drop:.2f}"
    )
    if proof.outcome == "inconclusive" and proof.needed_n is not None:
        text += f"; about {proof.needed_n:,} images would settle it"
    console.print(text, style="green" if result.passed else "red")


def _render_ranking(console: Console, ranking: tuple[LayerSensitivity, ...], picture: Path) -> None:
    from rich.table import Table

    grid = Table(title="layers by the KL divergence when each is quantized alone")
    grid.add_column("layer")
    for heading in ("KL, nats", "SQNR, dB", "multiply-adds %"):
        grid.add_column(heading, justify="right")
    for layer in ranking:
        kl = "–" if layer.kl is None else f"{layer.kl:.2g}"
        grid.add_row(layer.name, kl, f"{layer.sqnr_db:.1f}", f"{100 * layer.macs_share:.1f}")
    console.print(grid)
    console.print(f"{picture}")
