"""Batch-1 CPU latency of INT8 models: ours, ONNX Runtime's own quantizer, OpenVINO with NNCF."""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import Report, parser, photos, random_bundle, say, start
from peers import BUSY, HERE, Peers, Usage

from resnet_edge.bench.worker_process import Worker
from resnet_edge.build.stage import BuildConfig, build
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import load_recipe
from resnet_edge.catalog.targets import load_target
from resnet_edge.errors import BackendUnavailableError
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images

FLOAT, OURS, RIVAL = "ONNX Runtime FP32", "ours, CPU twin INT8", "OpenVINO + NNCF INT8"
OPENVINO_FLOAT = "OpenVINO, not quantized"
PEERS = {
    "ort-default": "ONNX Runtime quantize_static, defaults",
    "ort-u8s8": "ONNX Runtime quantize_static, U8S8 per channel",
    "ort-minmax": "ONNX Runtime quantize_static, symmetric S8S8",
    "nncf-openvino": RIVAL,
}
SPEED_UP_BAR, RIVAL_BAR = 2.8, 1.1
PROTOCOL = (
    "Random weights, batch 1, 224 x 224, all cores, every runtime with its defaults. Every "
    "contender is a process of its own and is warmed up until the median of ten calls stands "
    "still; they take turns in the order A B B A, {rounds} blocks of {seconds} s and at least "
    "{count} calls each. p50 and p90 over all calls, host time around one call. Ratios of the "
    "p50 are taken round by round: median (least–most). *Cosine*: of the logits of one image "
    "with ONNX Runtime's FP32 logits. INT8 calibrated on {images} images."
)


@dataclass
class Contender:
    """One process and what it measured.

    Attributes:
        worker: The process; says first its logits and a remark.
        rounds: Milliseconds of every call, a list per round.
    """

    worker: Worker
    rounds: list[list[float]] = field(default_factory=list)

    def percentile(self, percent: float) -> float:
        """Return a percentile of all calls in milliseconds."""
        return float(np.percentile(np.concatenate(self.rounds), percent))


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", help="default resnet18 resnet50; quick: 18")
    arguments.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    arguments.add_argument("--rounds", type=int, help="default 8; quick: 2")
    arguments.add_argument("--seconds", type=float, help="of a block: default 2; quick: 0.5")
    arguments.add_argument("--count", type=int, default=20, help="calls per block, at least")
    arguments.add_argument("--images", type=int, default=64, help="to calibrate on (default 64)")
    options = arguments.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 8)
    options.seconds = options.seconds or (0.5 if options.quick else 2.0)
    machine, peers = start(), Peers.find(options.peer_python)
    tools, missing = peers.available(options.peers)
    report = Report(
        "CPU latency of INT8 models",
        PROTOCOL.format(
            rounds=options.rounds, seconds=options.seconds, count=options.count,
            images=options.images,
        ),
        ("network", "model", "p50 ms", "p90 ms", "speed-up over ORT FP32",
         "time / OpenVINO INT8", "cosine"),
        notes=missing, versions=peers.versions,
    )  # fmt: skip
    networks = ["resnet18"] if options.quick else ["resnet18", "resnet50"]
    for network in options.networks or networks:
        found = contenders(report, network, tools, peers, options)
        add_rows(report, network, measure(report, found, options))
    report.write(options, machine)


def contenders(
    report: Report, network: str, tools: list[str], peers: Peers, options: argparse.Namespace
) -> list[Contender]:
    """Make every model and return the contenders."""
    bundle = random_bundle(network, options.cache)
    data, spec = photos(options.images, options.cache), bundle.model.image_spec
    source = open_images(data)
    assert isinstance(source, ArrayImages)
    calibrate(bundle, source, load_recipe("mse"))
    ours = build(bundle, load_target("cpu"), BuildConfig("int8")).engine
    image, model = options.cache / "one-photo.npy", bundle.file("model.onnx")
    np.save(image, spec.to_input(source.pixels[:1]))

    def add(label: str, kind: str, file: Path, python: str | Path = sys.executable) -> Contender:
        command = [python, HERE / "latency_worker.py", kind, file, image]
        return Contender(Worker(label, [str(part) for part in command]))

    found = [
        add("PyTorch FP32", "torch", bundle.path),
        add(FLOAT, "ort", model),
        add(OURS, "ort", ours),
    ]
    if "openvino" in peers.versions:
        found.append(add(OPENVINO_FLOAT, "openvino", model, peers.python))
    for tool in tools:
        openvino = tool == "nncf-openvino"
        out = options.cache / "latency" / f"{tool}-{network}.{'xml' if openvino else 'onnx'}"
        say(f"{network}: {tool}")
        result = peers.quantize(tool, model, data, spec, out)
        if "error" in result:
            report.notes.append(f"{network}: {PEERS[tool]} skipped: {result['error']}")
        elif openvino:
            found.append(add(PEERS[tool], "openvino", out, peers.python))
        else:  # in our ONNX Runtime, as everything else that it runs
            found.append(add(PEERS[tool], "ort", out))
    return found


def measure(
    report: Report, found: list[Contender], options: argparse.Namespace
) -> dict[str, Contender]:
    """Run the contenders in turns."""
    usage = Usage()
    with ExitStack() as stack:
        running = [one for one in found if starts(report, stack, one)]
        for contender in running:
            contender.worker.ask(warm_up_s=0.5)
        for turn in range(options.rounds):
            for contender in reversed(running) if turn % 2 else running:
                block = contender.worker.ask(seconds=options.seconds, count=options.count)
                contender.rounds.append(block["ms"])
            say(f"round {turn + 1} of {options.rounds}")
    others = usage.others()  # the contenders have ended, so their own time is known
    if others > BUSY:
        report.notes.append(f"NOT QUIET: others kept {others} CPUs busy during the measurement")
    return {contender.worker.label: contender for contender in running}


def starts(report: Report, stack: ExitStack, contender: Contender) -> bool:
    """Start a contender; if it cannot run, the report says why."""
    try:
        stack.enter_context(contender.worker)
    except BackendUnavailableError as error:
        report.notes.append(error.message)
        return False
    return True


def add_rows(report: Report, network: str, found: dict[str, Contender]) -> None:
    """Put one network into the report."""
    base, rival = found.get(FLOAT), found.get(RIVAL)
    for label, one in found.items():
        speed_up = None if base is None else ratio(base, one)
        relative = None if rival is None else ratio(one, rival)
        remark = one.worker.first["remark"]
        similar = (
            None
            if base is None
            else cosine(base.worker.first["logits"], one.worker.first["logits"])
        )
        report.values.append({
            "network": network, "model": label, "remark": remark, "cosine": similar,
            "calls": sum(map(len, one.rounds)),
            "p50_ms_by_round": [statistics.median(values) for values in one.rounds],
            **{f"p{p}_ms": one.percentile(p) for p in (50, 90, 99)},
            "speed_up_over_ort_fp32": speed_up, "time_over_openvino_int8": relative,
        })  # fmt: skip
        report.rows.append([
            network, f"{label} ({remark})" if remark else label,
            f"{one.percentile(50):.2f}", f"{one.percentile(90):.2f}",
            cell(speed_up), cell(relative), "–" if similar is None else f"{similar:.4f}",
        ])  # fmt: skip
    ours = found.get(OURS)
    if ours and base:
        note = f"{network}: ours is {cell(ratio(base, ours))} x as fast as ONNX Runtime FP32"
        report.notes.append(f"{note} (bar: at least {SPEED_UP_BAR})")
    if ours and rival:
        note = f"{network}: ours takes {cell(ratio(ours, rival))} of OpenVINO + NNCF's time"
        report.notes.append(f"{note} (bar: at most {RIVAL_BAR})")


def ratio(over: Contender, under: Contender) -> list[float]:
    """Return the median, the least and the most of the rounds' ratios of p50."""
    rounds = [
        statistics.median(a) / statistics.median(b)
        for a, b in zip(over.rounds, under.rounds, strict=True)
    ]
    return [statistics.median(rounds), min(rounds), max(rounds)]


def cell(values: list[float] | None) -> str:
    """Format a ratio with its range."""
    return "–" if values is None else f"{values[0]:.2f} ({values[1]:.2f}–{values[2]:.2f})"


def cosine(first: list[float], second: list[float]) -> float:
    """Return the cosine of two vectors."""
    a, b = np.array(first), np.array(second)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


if __name__ == "__main__":
    main()
