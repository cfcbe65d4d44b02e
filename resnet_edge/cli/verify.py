"""``resnet-edge verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_edge.cli import options
from resnet_edge.cli.output import DebugFlag, JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from rich.console import Console

    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.images.source import ImageSource
    from resnet_edge.verify.stage import AccuracyResult

__all__ = ["verify"]

GATE_NOT_MET = 3


def verify(
    bundle: options.BundleArgument,
    engine: Annotated[Path | None, typer.Option(help="Engine file; default the newest.")] = None,
    precision: Annotated[str | None, typer.Option(help="Newest build of this precision.")] = None,
    backend: Annotated[str | None, typer.Option(help="Newest build of this backend.")] = None,
    target: Annotated[str | None, typer.Option(help="Newest build for this target.")] = None,
    data: options.DataOption = None,
    labels: options.LabelsOption = None,
    max_drop: options.MaxDropOption = 0.5,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The checkpoint, if it moved since the export.")
    ] = None,
    trust_engine: options.TrustOption = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Compare an engine's accuracy with PyTorch; exit code 3 unless the gate is met."""
    out = Output(json=json, quiet=quiet, debug=debug)
    from resnet_edge.images.opening import open_images
    from resnet_edge.verify.candidate import find_candidate
    from resnet_edge.verify.stage import verify as run_verify

    options.refuse_labels_alone(labels, data)
    opened = options.open_bundle(bundle, out)
    candidate = find_candidate(
        opened,
        engine=engine,
        precision=precision,
        backend=backend,
        target=target,
        trusted=trust_engine,
    )
    images = _default_images(opened) if data is None else open_images(data, labels=labels)
    result = run_verify(
        opened, candidate, images, max_drop=max_drop, checkpoint=checkpoint, progress=out.progress
    )
    report = {
        **result.to_json(),
        "engine": str(candidate.file),
        "data": "golden images" if images is None else str(images.path),
    }
    out.result(report, lambda console: _render(console, result, report))
    if not result.passed:
        raise typer.Exit(GATE_NOT_MET)


def _default_images(bundle: Bundle) -> ImageSource | None:
    """Return the export's images, the shipped ones if they fit, or None for the golden ones."""
    from resnet_edge.bundle.provenance import images_of
    from resnet_edge.catalog.shipped import IMAGES, find
    from resnet_edge.images.opening import open_images

    recorded, info = images_of(bundle), bundle.model
    folder = find(f"{IMAGES}/test")
    if recorded is not None and recorded != folder.resolve():
        return open_images(recorded)
    shipped = open_images(folder)
    fits = info.labels == shipped.class_names or (
        info.labels is None and info.num_classes == 10 and info.image_spec.channels == 1
    )
    return shipped if fits else None


def _render(console: Console, result: AccuracyResult, report: dict[str, object]) -> None:
    from rich.table import Table

    grid = Table(title=f"{result.n} images of {report['data']}")
    grid.add_column("")
    for heading in ("top-1 %", "top-5 %"):
        grid.add_column(heading, justify="right")
    rows = (
        (f"reference ({result.source} fp32)", result.reference),
        (f"candidate ({result.backend} {result.precision})", result.candidate),
    )
    for name, score in rows:
        grid.add_row(name, _percent(score.top1), _percent(score.top5))
    console.print(grid)
    if result.drop_points is not None and result.drop_ci95 is not None:
        low, high = result.drop_ci95
        console.print(
            f"drop {result.drop_points:+.2f} points, 95 % interval {low:+.2f} … {high:+.2f}"
        )
    console.print(
        f"agreement {result.agreement:.2f} %, mean KL {result.mean_kl:.2g} nats, "
        f"executed: {result.executed}"
    )
    console.print(_verdict(result), style="green" if result.passed else "red")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _verdict(result: AccuracyResult) -> str:
    limit = f"upper 95 % limit of the drop {result.drop_upper95:.2f}, allowed {result.max_drop:.2f}"
    if result.outcome == "inconclusive":
        needed = "more images would not settle it" if result.needed_n is None else (
            f"about {result.needed_n:,} images would settle it"
        )  # fmt: skip
        return f"inconclusive: {limit}; {needed}"
    if result.outcome == "fail":
        return f"fail: {limit}"
    return f"{'proven' if result.executed == 'engine' else 'pass'}: {limit}"
