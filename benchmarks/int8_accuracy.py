"""Accuracy of each tool's INT8 model on 10,000 real images, on ordinary and hard networks."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, parser, say, start
from numpy.typing import NDArray
from outlier import outlier_checkpoint
from peers import Peers

from resnet_edge.backends.evaluate import run_all
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession, Optimise
from resnet_edge.backends.pytorch import TorchSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.provenance import checkpoint_of
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import load_recipe
from resnet_edge.catalog.shipped import CHECKPOINT, IMAGES, find
from resnet_edge.export.stage import export, reload_model
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images
from resnet_edge.quantize.stage import quantize
from resnet_edge.statistics import Z_TWO_SIDED_95, Paired, drop_limit, mcnemar

# what runs the tool's model: its graph exactly as written, ONNX Runtime optimised, or OpenVINO
PEERS = {
    "modelopt-entropy": "graph", "modelopt-max": "graph", "ort-minmax": "graph",
    "ort-entropy": "graph", "ort-entropy-4096": "graph", "ort-percentile": "graph",
    "ort-default": "onnxruntime", "ort-u8s8": "onnxruntime", "nncf-onnx": "onnxruntime",
    "nncf-openvino": "openvino", "nncf-accuracy-control": "openvino",
}  # fmt: skip
OURS, TWIN = "ours, auto", "ours, auto, CPU twin"
SLOW = ("ort-entropy-4096", "nncf-accuracy-control")  # not in a quick run
PROTOCOL = (
    "Calibrated on the {calibration:,} shipped Fashion-MNIST calibration images (auto keeps up to "
    "64 of them to choose on), measured on {test:,} shipped test images. *Run by*: graph is a "
    "graph for TensorRT, run by ONNX Runtime exactly as written; onnxruntime and openvino run CPU "
    "models with their own optimisations, in FP32 where not INT8. *Drop* in points of top-1 "
    "against PyTorch, with Tango's 95 % interval; lost / won: images only PyTorch, only the INT8 "
    "model gets right. *Against ours*: images only ours, only the tool gets right, and the p-value "
    f"of McNemar's exact test; graphs against “{OURS}”, CPU models against “{TWIN}”. *Rescaled*: "
    "the same FP32 function, every channel multiplied by 1 to 100. nncf-accuracy-control may lose "
    "{drop} points on the calibration images. Batches: ONNX Runtime 8, the others 1, their default."
)


@dataclass(frozen=True)
class Data:
    """Images for every tool: as ours, and as files for the peers."""

    calibration: ArrayImages
    test: ArrayImages
    files: dict[str, str]  # data, test, labels


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--peers", nargs="*", choices=list(PEERS), help="default all")
    arguments.add_argument(
        "--checkpoint", type=Path, nargs="*", default=[], metavar="FILE",
        help="further CIFAR-style networks trained on Fashion-MNIST, for example a ResNet-56",
    )  # fmt: skip
    arguments.add_argument("--max-drop", type=float, default=0.5, help="of accuracy control")
    options = arguments.parse_args()
    machine, peers = start(), Peers.find(options.peer_python)
    wanted = [tool for tool in PEERS if not options.quick or tool not in SLOW]
    tools, missing = peers.available(wanted if options.peers is None else options.peers)
    data = prepare(options.cache, quick=options.quick)
    report = Report(
        "Accuracy of INT8 models on Fashion-MNIST",
        PROTOCOL.format(
            calibration=len(data.calibration), test=len(data.test), drop=options.max_drop
        ),
        ("model", "INT8 by", "run by", "top-1 %", "drop [95 %]", "agreement %", "lost / won",
         "against ours: lost / won", "p"),
        notes=missing, versions=peers.versions,
    )  # fmt: skip
    for checkpoint in [find(CHECKPOINT), *options.checkpoint]:
        twin = outlier_checkpoint(checkpoint, options.cache)
        for path, kind in ((checkpoint, ""), (twin, ", rescaled")):
            bundle = fresh_bundle(path, options.cache)
            measure(report, bundle, checkpoint.stem + kind, tools, peers, data, options)
    report.write(options, machine)


def prepare(cache: Path, *, quick: bool) -> Data:
    """Open the shipped images, and write them down for the peers."""
    sources = {}
    for name, count in (("calibration", 64), ("test", 1000)):
        images = open_images(find(f"{IMAGES}/{name}"))
        assert isinstance(images, ArrayImages)
        assert images.labels is not None
        if quick:
            labels = images.labels[:count]
            images = ArrayImages(images.path, images.pixels[:count], labels, images.class_names)
        sources[name] = images
    cache.mkdir(parents=True, exist_ok=True)
    arrays = {
        "data": sources["calibration"].pixels[..., None],
        "labels": sources["calibration"].labels,
        "test": sources["test"].pixels[..., None],
    }
    files = {key: cache / f"fashion-{key}-{len(array)}.npy" for key, array in arrays.items()}
    for key, path in files.items():
        np.save(path, arrays[key])
    return Data(sources["calibration"], sources["test"], {k: str(p) for k, p in files.items()})


def fresh_bundle(checkpoint: Path, cache: Path) -> Bundle:
    """Export a checkpoint into a new bundle."""
    folder = cache / f"accuracy-{checkpoint.stem}"
    shutil.rmtree(folder, ignore_errors=True)
    return export(checkpoint, folder).bundle


def measure(
    report: Report, bundle: Bundle, title: str, tools: list[str], peers: Peers, data: Data,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Quantize one network with every tool and compare the logits on the test images."""
    labels, spec = data.test.labels, bundle.model.image_spec
    with TorchSession(
        reload_model(bundle, checkpoint_of(bundle) or Path(bundle.model.source)), spec
    ) as session:
        reference = run_all(session, data.test, spec)[0]
    top1 = 100 * float((reference.argmax(1) == labels).mean())
    report.rows.append([title, "none: FP32", "pytorch", f"{top1:.2f}", *["–"] * 5])
    report.values.append({"model": title, "tool": "fp32", "executed": "pytorch", "top1": top1})
    kept: dict[str, NDArray[np.bool_]] = {}
    for label, executed, found in logits_of(bundle, tools, peers, data, options):
        if isinstance(found, dict):
            report.rows.append([title, label, executed, found["error"], *["–"] * 5])
            report.values.append({"model": title, "tool": label, "executed": executed, **found})
            continue
        kept[label] = found.argmax(1) == labels
        base = OURS if executed == "graph" else TWIN
        against = None if label == base else paired(kept[base], kept[label])
        value = compare(reference, found, labels) | {"against": base, "against_ours": against}
        report.values.append({"model": title, "tool": label, "executed": executed, **value})
        report.rows.append([title, label, executed, *cells(value)])
        say(f"{title}, {label}: {value['top1']:.2f} %")


def logits_of(
    bundle: Bundle, tools: list[str], peers: Peers, data: Data, options: argparse.Namespace
) -> Iterator[tuple[str, str, NDArray[np.float32] | dict[str, Any]]]:
    """Yield every tool, what runs its model, and the model's logits or the tool's error."""
    for name in ("auto", "mse"):  # auto first: the others are compared with it
        recipe = replace(load_recipe(name), images=len(data.calibration))
        calibrate(bundle, data.calibration, recipe)
        yield (
            f"ours, {name}",
            "graph",
            run(bundle, quantize(bundle, "int8").path, data, optimise="none"),
        )
        if name == "auto":
            twin = quantize(bundle, "int8-cpu").path
            yield TWIN, "onnxruntime", run(bundle, twin, data, optimise="all")
    for tool in tools:
        executed, folder = PEERS[tool], options.cache / "accuracy"
        out = folder / f"{tool}-{bundle.path.name}.{'xml' if executed == 'openvino' else 'onnx'}"
        more: dict[str, Any] = {"labels": data.files["labels"], "max_drop": options.max_drop}
        if executed == "openvino":
            more |= {"test": data.files["test"], "logits": str(out.with_suffix(".npy"))}
        made = peers.quantize(
            tool, bundle.file("model.onnx"), Path(data.files["data"]), bundle.model.image_spec,
            out, **more,
        )  # fmt: skip
        if "error" in made:
            yield tool, executed, made
        elif executed == "openvino":
            yield tool, executed, np.load(more["logits"])
        else:
            yield (
                tool,
                executed,
                run(bundle, out, data, optimise="none" if executed == "graph" else "all"),
            )


def run(bundle: Bundle, graph: Path, data: Data, *, optimise: Optimise) -> NDArray[np.float32]:
    """Run an ONNX file on the test images in our ONNX Runtime."""
    with OnnxRuntimeSession(graph, optimise=optimise) as session:
        logits, _, _ = run_all(session, data.test, bundle.model.image_spec)
    return logits


def compare(
    reference: NDArray[np.float32], logits: NDArray[np.float32], labels: Any
) -> dict[str, Any]:
    """Compare a model with PyTorch image by image."""
    still = logits.argmax(1) == labels
    found = paired(reference.argmax(1) == labels, still)
    counts = Paired(len(logits), found["lost"], found["won"])
    return {
        "n": len(logits), "top1": 100 * float(still.mean()), "drop_points": 100 * counts.drop,
        "drop_ci95": [100 * drop_limit(counts, Z_TWO_SIDED_95, upper=up) for up in (False, True)],
        "agreement": 100 * float((reference.argmax(1) == logits.argmax(1)).mean()),
        **found,
    }  # fmt: skip


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Count the images only the first, and only the second, gets right."""
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    return {"lost": lost, "won": won, "mcnemar_p": mcnemar(Paired(len(first), lost, won))}


def cells(value: dict[str, Any]) -> list[str]:
    """Format one comparison."""
    low, high = value["drop_ci95"]
    against = value["against_ours"]
    return [
        f"{value['top1']:.2f}", f"{value['drop_points']:+.2f} [{low:+.2f}, {high:+.2f}]",
        f"{value['agreement']:.2f}", f"{value['lost']} / {value['won']}",
        "–" if against is None else f"{against['lost']} / {against['won']}",
        "–" if against is None else f"{against['mcnemar_p']:.2g}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
