"""Check on an NVIDIA machine what can be checked there, and write one JSON file to bring back.

    make device-check                      # uses .venv, made from the package index
    make device-check WHEELS=wheels        # no network: packages come from that folder
    python benchmarks/device_check.py --help

It runs doctor, the tests that need a GPU (RESNET_EDGE_REQUIRE lists what is there, so that nothing
passes by being skipped), builds or loads engines, and takes accuracy and latency of ResNet-18 and
ResNet-50 through the command line; where no engine can run it still checks PyTorch, ONNX Runtime's
CUDA provider and the device-memory layer, and says what stays unverified. The exit code is 0 only
if there was a device and nothing failed.

A machine without PyTorch is given networks that were exported elsewhere: --bundle resnet20=FOLDER
(the tests of engines use it too), --bundle resnet18=FOLDER, --bundle resnet50=FOLDER.

WHEELS is what ``pip download`` fetched on a machine like it; PyTorch and TensorRT may come from the
machine instead. Source packages in it (pycuda has no wheels) are compiled, which needs nvcc:

    pip download -d wheels onnx onnxscript onnxsim onnxruntime safetensors typer rich pillow \
        pytest hypothesis
    pip download -d wheels --no-binary pycuda pycuda setuptools wheel numpy

Needs nothing but Python itself to start.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_result import read_junit, scrub, slug, summarize
from device_session import REPOSITORY, Session, Step

WORKER = REPOSITORY / "benchmarks" / "device_worker.py"
SHIPPED = REPOSITORY / "resnet_edge" / "assets" / "resnet20-fashion-mnist.safetensors"
IMAGES = REPOSITORY / "calibration" / "images" / "fashion-mnist"
NETWORKS = ("resnet20", "resnet18", "resnet50")
NO_INT8 = (("trtexec", "5.3"), ("trtexec", "6.2"), ("tensorrt_rtx", "7.5"))
GATE_NOT_MET = 3
MOVED = 0.002  # share of the values that FP32 in another order counts in another bucket
APART = 0.002  # relative, of the extremes
RANDOM_WEIGHTS = (
    "import sys, torch; from resnet_edge.models.zoo import create; torch.manual_seed(0);"
    "torch.save(create(sys.argv[1]).state_dict(), sys.argv[2])"
)
RTX_GPUS = (
    "import json; from resnet_edge.build.request import RTX_CAPABILITIES as c; print(json.dumps(c))"
)


def main() -> int:
    """Run everything; return the exit code."""
    options = parse(sys.argv[1:])
    options.work.mkdir(parents=True, exist_ok=True)
    session = Session(sys.executable, options.work.resolve(), options.timeout)
    if options.wheels is None or install(session, options.wheels.resolve()):
        session.doctor = session.command("doctor", "doctor").values or {}
        if session.gpus:
            check_device(session, options)
        else:
            session.skip("everything on a device", "this machine has no NVIDIA GPU it can use")
    return finish(session, options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--wheels", type=Path, metavar="FOLDER", help="install from here only")
    made.add_argument(
        "--output", type=Path, metavar="FOLDER", default=REPOSITORY / "docs/results/devices",
        help="where DEVICE.json goes (default docs/results/devices)",
    )  # fmt: skip
    made.add_argument("--work", type=Path, default=REPOSITORY / ".cache/device-check")
    made.add_argument("--target", default="auto", help="a name or a .toml file (default auto)")
    made.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME")
    made.add_argument(
        "--bundle", action="append", default=[], metavar="NAME=FOLDER",
        help="a network exported elsewhere, for a machine without PyTorch",
    )  # fmt: skip
    made.add_argument(
        "--checkpoint", action="append", default=[], metavar="NAME=FILE",
        help="trained weights of a network; without them ResNet-18 and -50 get random ones",
    )  # fmt: skip
    made.add_argument("--data", type=Path, help="labelled images for those checkpoints")
    made.add_argument("--timeout", type=float, default=1800, help="seconds for one step")
    return made.parse_args(arguments)


def install(session: Session, wheels: Path) -> bool:
    """Make an environment from a folder of packages, over what the machine's Python has."""
    environment = session.work / "venv"
    ready = sorted({"==".join(wheel.name.split("-")[:2]) for wheel in wheels.glob("*.whl")})
    if not ready:
        session.add(Step("packages", "failed", f"{wheels} holds no wheels"))
        return False
    made = session.run("environment", ["-m", "venv", "--system-site-packages", str(environment)])
    if made.failed:
        return False
    packages = next(environment.glob("lib/python3*/site-packages"))
    parents = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    if sys.prefix != sys.base_prefix:  # a venv's venv sees the system's packages, not its parent's
        (packages / "parent.pth").write_text("\n".join(parents) + "\n")
    session.python = str(environment / "bin" / "python")
    pip = ["-m", "pip", "install", "--no-index", "--find-links", str(wheels)]
    if session.run("packages", [*pip, *ready]).failed:
        return False
    for place in parents:  # ONNX Runtime looks for CUDA's packages beside itself only
        if (Path(place) / "nvidia").is_dir() and not (packages / "nvidia").exists():
            (packages / "nvidia").symlink_to(Path(place) / "nvidia")
    for source in sorted(wheels.glob("*.tar.gz")):
        session.run(f"compile {source.name}", [*pip, "--no-build-isolation", str(source)])
    return True


def check_device(session: Session, options: argparse.Namespace) -> None:
    """Check everything that this device can do."""
    chosen = options.target
    if chosen.endswith(".toml"):
        chosen = str(Path(chosen).resolve())
    target = session.command("target", "targets", "show", chosen).values or {}
    run_gpu_tests(session, named(options.bundle).get("resnet20"))
    for package, library in (("pycuda", "pycuda"), ("cuda.bindings", "cuda-python")):
        name = f"device memory through {library}"
        if session.package(package):
            session.run(name, [str(WORKER), "memory", library])
        else:
            session.skip(name, "not installed, or it cannot be imported")
    bundles: list[str] = []
    for network in options.networks:
        bundle = open_bundle(session, network, options)
        if bundle is not None:
            check_network(session, {**target, "chosen": chosen}, network, bundle, options)
            bundles.append(bundle)
    if bundles:
        check_rtx_refusal(session, bundles[0])


def run_gpu_tests(session: Session, bundle: str | None) -> None:
    """Run the tests marked gpu; what this machine has must not be skipped.

    Those of engines need a bundle of the shipped network, or PyTorch to export one.
    """
    required = session.required
    if bundle is None and {"tensorrt", "tensorrt_rtx"} & set(required):
        required.append("torch")
    report = session.work / "gpu-tests.xml"
    report.unlink(missing_ok=True)
    files = [f for f in (REPOSITORY / "tests").rglob("test_*.py") if "mark.gpu" in f.read_text()]
    step = session.run(
        "tests marked gpu",
        ["-m", "pytest", *map(str, sorted(files)), "-m", "gpu", "-q", "-p", "no:cacheprovider",
         "-c", str(REPOSITORY / "pyproject.toml"), f"--junitxml={report}"],
        environment={
            "RESNET_EDGE_REQUIRE": ",".join(required),
            **({"RESNET_EDGE_BUNDLE": bundle} if bundle else {}),
        },
        read=lambda _: read_junit(report) if report.is_file() else None,
        judge=lambda counted: "" if counted and counted["passed"] else "no test ran",
    )  # fmt: skip
    for skipped in (step.values or {}).get("skipped", ()):
        session.skip(f"test {skipped['test']}", skipped["reason"])


def open_bundle(session: Session, network: str, options: argparse.Namespace) -> str | None:
    """Return a network's bundle, exported here where it was not given; None if there is none."""
    given = named(options.bundle).get(network)
    if given is not None:
        return given
    if session.package("torch") is None:
        session.skip(network, "no PyTorch to export with: export elsewhere, then --bundle")
        return None
    checkpoint = checkpoint_of(session, network, options)
    if not Path(checkpoint).is_file():
        name = f"{network}: random weights"
        if session.run(name, ["-c", RANDOM_WEIGHTS, network, checkpoint]).failed:
            return None
    bundle = str(session.work / network)
    exported = session.command(f"{network}: export", "export", checkpoint, "-o", bundle)
    return None if exported.failed else bundle


def checkpoint_of(session: Session, network: str, options: argparse.Namespace) -> str:
    """Return a network's weights: given, shipped, or random ones of this run."""
    shipped = str(SHIPPED) if network == "resnet20" else str(session.work / f"{network}.pt")
    return named(options.checkpoint).get(network, shipped)


def named(pairs: Sequence[str]) -> dict[str, str]:
    """Return the paths of NAME=PATH options."""
    return {name: str(Path(path).resolve()) for name, _, path in (p.partition("=") for p in pairs)}


def check_network(
    session: Session, target: dict[str, Any], network: str, bundle: str,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Run a network by every means this machine has."""
    trained = network in named(options.checkpoint) or network == "resnet20"
    data = str(options.data.resolve()) if options.data and trained else None
    if network == "resnet20":
        data = None  # the shipped network has the shipped images
    check_engines(session, target, network, bundle, data, gated=trained)
    checkpoint = checkpoint_of(session, network, options)
    for package, title, last in (
        ("torch", "PyTorch", checkpoint), ("onnxruntime", "ONNX Runtime", "model.onnx"),
    ):  # fmt: skip
        name = f"{network}: {title} on the GPU"
        if not session.sees_gpu(package):
            session.skip(name, f"{title} is not installed here, or cannot use the GPU")
        elif package == "torch" and network in named(options.bundle):
            session.skip(name, "the bundle was made elsewhere")
        else:
            session.run(name, [str(WORKER), package, bundle, last], judge=judge_logits)
    if session.sees_gpu("onnxruntime"):
        session.run(
            f"{network}: calibration on the GPU",
            [str(WORKER), "calibrate", bundle, data or str(IMAGES / "calibration")],
            judge=judge_counts,
        )


def judge_logits(values: dict[str, Any]) -> str:
    """Say what is wrong with logits that differ from the golden ones."""
    for name, found in (("", values), *((n, v) for n, v in values.items() if isinstance(v, dict))):
        if "max_abs" not in found:
            continue
        limit = (0.05 if name == "fp16" else 0.002) * found["max_logit"]
        if not found["max_abs"] <= limit:
            return f"{name} logits differ from the CPU's by {found['max_abs']:.3g}".strip()
    return ""


def judge_counts(values: dict[str, Any]) -> str:
    """Say what is wrong with what a calibration on the GPU counted."""
    if not values["moved"] <= MOVED:
        return f"{values['moved']:.2%} of the values are in other buckets than on the CPU"
    if not values["ranges_apart"]["minmax"] <= APART:
        return f"extremes differ from the CPU's by {values['ranges_apart']['minmax']:.2%}"
    return ""


def check_engines(
    session: Session, target: dict[str, Any], network: str, bundle: str, data: str | None, *,
    gated: bool,
) -> None:  # fmt: skip
    """Build, verify and time engines for this machine."""
    backend = target.get("backend", "")
    if not session.runs_engines(backend):
        state = session.doctor["backends"].get(backend, {"checks": []})
        bad = [check["found"] for check in state["checks"] if check["status"] != "ok"]
        reason = bad[0] if bad else "there is no target for this machine"
        session.skip(f"{network}: engines ({backend or 'no backend'})", reason)
        return
    for precision in precisions(target):
        extra = ["--data", data or str(IMAGES / "calibration")] if precision == "int8" else []
        built = session.command(
            f"{network}: build {precision}",
            "build", bundle, f"--{precision}", "--target", target["chosen"], *extra,
        )  # fmt: skip
        if built.failed:
            continue
        session.command(
            f"{network}: verify {precision}",
            "verify", bundle, "--precision", precision, "--backend", backend, "--max-drop", "1.0",
            *(["--data", data] if data else []),
            codes=(0,) if gated else (0, GATE_NOT_MET),
            judge=lambda found: (
                "" if found["executed"] == "engine" else f"executed: {found['executed']}"
            ),
        )  # fmt: skip
    session.command(
        f"{network}: bench", "bench", bundle, "--batch", "1,8,32",
        judge=lambda found: (
            "" if backend in {r["backend"] for r in found["results"]}
            else f"nothing of {backend} was measured"
        ),
    )  # fmt: skip


def precisions(target: dict[str, Any]) -> tuple[str, ...]:
    """Return the precisions that a target's backend offers on its GPU."""
    if (target["backend"], target["compute_capability"]) in NO_INT8:
        return ("fp16",)
    return ("fp16", "int8")


def check_rtx_refusal(session: Session, bundle: str) -> None:
    """On a GPU that TensorRT-RTX does not know, a build for it must be refused with that reason."""
    gpu = session.gpus[0]
    known = session.run("GPUs of TensorRT-RTX", ["-c", RTX_GPUS]).values or []
    if gpu["compute_capability"] in known:
        return
    wrong = session.work / "rtx-here.toml"
    wrong.write_text(
        f'description = "TensorRT-RTX on {gpu["name"]}"\nbackend = "tensorrt_rtx"\n'
        f'compute_capability = "{gpu["compute_capability"]}"\n'
    )
    session.command(
        "TensorRT-RTX is refused here",
        "build", bundle, "--fp16", "--target", str(wrong),
        codes=(1,),
        judge=lambda found: (
            "" if "does not support" in found["error"]["message"]
            else f"refused for another reason: {found['error']['message']}"
        ),
    )  # fmt: skip


def finish(session: Session, options: argparse.Namespace) -> int:
    """Write the result and say what it means."""
    result = summarize(session)
    text = scrub(json.dumps(result, indent=1), session)
    where = session.work / "result.json"
    where.write_text(text + "\n", encoding="utf-8")
    if result["device"]:
        options.output.mkdir(parents=True, exist_ok=True)
        where = options.output / f"{slug(result['device'])}.json"
        where.write_text(text + "\n", encoding="utf-8")
    counts = {o: sum(s.outcome == o for s in session.steps) for o in ("passed", "failed")}
    print(f"\n{result['verdict']}: {counts['passed']} passed, {counts['failed']} failed")
    for line in result["unverified"]:
        print(f"  unverified: {line}")
    print(f"result: {where}")
    return 0 if result["verdict"] == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
