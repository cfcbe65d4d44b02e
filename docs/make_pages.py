"""Draw the pictures and write the tables of docs/resnet.md and docs/results/degradation.md.

The first are made from the network code, the second from the JSON files in docs/results, which
`resnet-edge experiment` wrote.

python docs/make_pages.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import nn

from resnet_edge.experiment.curves import Comparison, final_table
from resnet_edge.experiment.pictures import plot_curves, plot_responses
from resnet_edge.experiment.responses import NetworkResponses, Response, responses_table
from resnet_edge.files import read_json
from resnet_edge.models.resnet import ResNet, count_macs, without_weights
from resnet_edge.models.zoo import architecture

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ORANGE = "#d55e00"
IMAGENET, SMALL = (18, 34, 50, 101, 152), (20, 32, 44, 56, 110)


def imagenet_table() -> str:
    """Return the ImageNet networks as a Markdown table, one row a stage."""
    models = [_network(f"resnet{depth}") for depth in IMAGENET]
    sizes = _output_sizes(models[0], (3, 224, 224))
    rows = [
        ["stage", "output", *(f"ResNet-{depth}" for depth in IMAGENET)],
        ["---"] * (2 + len(models)),
        ["stem", sizes["conv1"], *(_conv(model.conv1) for model in models)],
        ["", sizes["maxpool"], *(_pool(model.maxpool) for model in models)],
    ]
    rows += [
        [name, sizes[name], *(_blocks(m.get_submodule(name)) for m in models)]
        for name in models[0].stage_names
    ]
    rows.append(["head", "1×1", *(f"average pool, {m.fc.out_features}-way linear" for m in models)])
    rows.append(["parameters", "", *(f"{_parameters(m) / 1e6:.2f} M" for m in models)])
    macs = [count_macs(m, (3, 224, 224)) for m in models]
    rows.append(["multiply-adds", "", *(f"{n / 1e9:.2f} G" for n in macs)])
    return _markdown(rows)


def small_table() -> str:
    """Return the networks for small images as a Markdown table, one row a network."""
    rows = [
        ["network", "blocks", "32×32", "16×16", "8×8", "parameters", "multiply-adds"],
        ["---"] * 7,
    ]
    for depth in SMALL:
        model = _network(f"resnet{depth}")
        stages = [model.get_submodule(name) for name in model.stage_names]
        macs = count_macs(model, (3, 32, 32))
        rows.append(
            [f"ResNet-{depth}", str(sum(len(list(s)) for s in stages)), *map(_blocks, stages),
             f"{_parameters(model) / 1e6:.2f} M", f"{macs / 1e6:.0f} M"]
        )  # fmt: skip
    return _markdown(rows)


def curves_table(name: str) -> Callable[[], str]:
    """Return what makes the table of an experiment's last epoch."""
    return lambda: final_table(Comparison.read(RESULTS / f"{name}.json"))


def measured_responses() -> tuple[NetworkResponses, ...]:
    """Return what `experiment responses` wrote."""
    return tuple(
        NetworkResponses(one["network"], one["seed"], tuple(Response(**r) for r in one["layers"]))
        for one in read_json(RESULTS / "responses.json")["networks"]
    )


EXPERIMENTS = ("degradation", "degradation-18-34", "shortcuts")
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "resnet.md": {"imagenet": imagenet_table, "small": small_table},
    "results/degradation.md": {
        **{name: curves_table(name) for name in EXPERIMENTS},
        "responses": lambda: responses_table(measured_responses()),
    },
}


def with_tables(page: str) -> str:
    """Return a page's text with what stands between its marks replaced by the tables."""
    text = (HERE / page).read_text(encoding="utf-8")
    for name, table in TABLES[page].items():
        before, mark, rest = text.partition(f"<!-- table {name} -->\n")
        text = f"{before}{mark}{table()}{rest[rest.index('<!-- end -->') :]}"
    return text


def _network(name: str) -> ResNet:
    return without_weights(architecture(name))


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _output_sizes(model: ResNet, shape: tuple[int, int, int]) -> dict[str, str]:
    sizes: dict[str, str] = {}

    def note(name: str) -> Any:
        return lambda _module, _inputs, out: sizes.update({name: f"{out.shape[2]}×{out.shape[3]}"})

    for name, module in model.named_children():
        if name != "fc":
            module.register_forward_hook(note(name))
    model.eval()(torch.zeros(1, *shape, device="meta"))
    return sizes


def _conv(conv: nn.Conv2d) -> str:
    stride = f", stride {conv.stride[0]}" if conv.stride[0] > 1 else ""
    return f"{conv.kernel_size[0]}×{conv.kernel_size[1]}, {conv.out_channels}{stride}"


def _pool(pool: Any) -> str:
    return f"{pool.kernel_size}×{pool.kernel_size} max-pool, stride {pool.stride}"


def _blocks(stage: Any) -> str:
    """Return what a stage repeats, read off its last block, and how often."""
    return f"[{'; '.join(_conv(conv) for conv in _convolutions(stage[-1]))}] × {len(stage)}"


def _convolutions(block: nn.Module) -> list[nn.Conv2d]:
    return [m for name, m in block.named_children() if name.startswith("conv")]  # type: ignore[misc]


def _markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def draw_blocks(path: Path) -> None:
    """Draw two plain layers, the basic block and the bottleneck, as the code builds them."""
    figure = Figure(figsize=(9.6, 4.2))
    columns = (
        ("two plain layers", _network("plain34").layer1[1], 64),
        ("basic block (18, 34)", _network("resnet34").layer1[1], 64),
        ("bottleneck (50, 101, 152)", _network("resnet50").layer1[1], 256),
    )
    for axes, (title, block, channels) in zip(figure.subplots(1, 3), columns, strict=True):
        _draw_block(axes, title, block, channels)
    figure.subplots_adjust(left=0.0, right=1.0, top=1.0, bottom=0.0, wspace=0.0)
    figure.savefig(path, metadata={"Date": None})


def _draw_block(axes: Any, title: str, block: Any, channels: int) -> None:
    """Draw one block between heights 0 (its input) and -7 (its output)."""
    axes.set_xlim(-2.4, 2.4)
    axes.set_ylim(-7.4, 1.2)
    axes.axis("off")
    axes.text(0, 0.85, title, ha="center", va="center", fontsize=11, weight="bold")
    axes.text(0, 0.1, f"x,  {channels} channels", ha="center", va="center", fontsize=10)
    convolutions = _convolutions(block)
    plus = -5.9
    step = (plus + 1.3) / len(convolutions)  # from one box to the next
    y = -0.2
    for i, conv in enumerate(convolutions):
        last = i == len(convolutions) - 1
        center = -0.5 + step * (i + 0.5)
        _arrow(axes, (0, y), (0, center + 0.5))
        _box(axes, center, f"{_conv(conv)}\n{'BN' if last else 'BN, ReLU'}")
        y = center - 0.5
    if block.residual:
        _arrow(axes, (0, y), (0, plus + 0.27))
        axes.scatter([0], [plus], s=280, facecolor="white", edgecolor="black", zorder=3)
        axes.text(0, plus - 0.02, "+", ha="center", va="center", fontsize=14, zorder=4)
        axes.plot([0, 2.0, 2.0], [-0.32, -0.32, plus], color=ORANGE, lw=2)
        _arrow(axes, (2.0, plus), (0.22, plus), color=ORANGE, lw=2)
        axes.text(1.9, -3.2, "identity x", rotation=90, ha="right", va="center", color=ORANGE)
        axes.text(-0.15, plus + 0.5, "F(x)", ha="right", va="center", style="italic")
        y = plus - 0.27
    _arrow(axes, (0, y), (0, -6.65))
    label = "y = ReLU(F(x) + x)" if block.residual else "y = ReLU(F(x))"
    axes.text(0, -6.95, label, ha="center", va="center", fontsize=11)


def _box(axes: Any, y: float, text: str) -> None:
    axes.add_patch(
        FancyBboxPatch((-1.25, y - 0.42), 2.5, 0.84, boxstyle="round,pad=0.05", fc="#e8f0f8")
    )
    axes.text(0, y, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Any, start: Any, end: Any, **style: Any) -> None:
    style = {"color": "black", "lw": 1.2, **style}
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, shrinkA=0, shrinkB=0, **style
        )
    )


def main() -> None:
    """Write pictures and pages."""
    draw_blocks(HERE / "resnet-blocks.svg")
    for name in EXPERIMENTS:
        plot_curves(Comparison.read(RESULTS / f"{name}.json"), RESULTS / f"{name}.svg")
    plot_responses(measured_responses(), RESULTS / "responses.svg")
    for page in TABLES:
        (HERE / page).write_text(with_tables(page), encoding="utf-8")


if __name__ == "__main__":
    main()
