"""A stand-in for NVIDIA's ``trtexec``: same options, same words, outputs by ONNX Runtime.

It accepts exactly the options of one version (``flags/<version>.json``, made from the public
sources), refuses what those refuse, and writes logs and JSON files in that version's format. Its
"engine" is a header, which says what it was built for, in front of the ONNX file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

FLAGS = Path(__file__).parent / "flags"
MAGIC = b"emulated-plan "
_DTYPES = {1: np.float32, 2: np.uint8, 10: np.float16}


class RefusedError(Exception):
    """What the C++ program reports as an invalid argument, before it does anything."""


class FailedError(Exception):
    """A phase that failed; its lines go out as errors."""


class Standin:
    """One run of the program.

    Args:
        version: For example ``8.5.2``.
        fault: What goes wrong; see `_fault`.
        argv: As in C.
    """

    def __init__(self, version: str, fault: str, argv: list[str]) -> None:
        self.major, self.minor, self.patch = map(int, version.split("."))
        self.version, self.fault, self.argv = version, fault, argv
        self.flags = json.loads((FLAGS / f"{version}.json").read_text())
        self.options: dict[str, list[str]] = defaultdict(list)
        for argument in argv[1:]:
            name, _, value = argument.partition("=")
            self.options[name].append(value)

    def main(self) -> int:
        self.report("RUNNING")
        if {"--help", "-h"} & set(self.options):
            self.help()
            return 0
        try:
            self.check()
        except (RefusedError, ValueError) as error:
            if self.major >= 10:
                self.help()
            for line in error.args if isinstance(error, RefusedError) else ("stoi",):
                self.log("E", line)
            if self.major < 10:
                self.help()
            return self.report("FAILED")
        self.log("I", "=== Model Options ===")
        self.log("I", "=== Device Information ===")
        if self.fault == "no-device":
            self.log("E", "Cuda failure: CUDA driver version is insufficient for CUDA runtime")
            os.kill(os.getpid(), signal.SIGABRT)
        self.log("I", f"TensorRT version: {self.version}")
        try:
            self.work()
        except FailedError as error:
            for line in error.args:
                self.log("E", line)
            return self.report("FAILED")
        return self.report("PASSED")

    # ---- words

    @property
    def number(self) -> int:
        thousand = 1000 if self.major < 10 else 10000
        return self.major * thousand + self.minor * 100 + self.patch

    def report(self, result: str) -> int:
        build = " [b36]" if (self.major, self.minor) >= (10, 13) else ""
        name = f"TensorRT.trtexec [TensorRT v{self.number}]{build}"
        print(f"&&&& {result} {name} # {' '.join(self.argv)}", flush=True)
        return 0 if result == "PASSED" else 1

    def log(self, severity: str, text: str) -> None:
        stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
        stream = sys.stdout if severity == "I" else sys.stderr
        print(f"[{stamp}] [{severity}] {text}", file=stream, flush=True)

    def help(self) -> None:
        print("=== Model Options ===")
        for head in self.flags["help"]:
            print(f"  {head:<35}…")
            print(f"{'':37}see also --noSuchOption")

    # ---- options

    def value(self, name: str, default: str = "") -> str:
        return self.options[name][0] if name in self.options else default

    def has(self, name: str) -> bool:
        return name in self.options

    def check(self) -> None:
        """Refuse what the option parser of the real program refuses."""
        if self.has("--loadEngine") and self.has("--saveEngine"):
            raise RefusedError("Incompatible load and save engine options selected")
        given = [self.has(f"--{n}Shapes") for n in ("min", "opt", "max")]
        if any(given) and not all(given) and given != [False, True, False]:
            raise RefusedError(
                "Must specify only --optShapes or all of --minShapes, --optShapes, …"
            )
        for name in ("--workspace", "--iterations", "--useDLACore", "--warmUp", "--duration"):
            if self.has(name):
                float(self.value(name))
        for pool in filter(None, self.value("--memPoolSize").split(",")):
            name, _, size = pool.rpartition(":")
            if name not in ("workspace", "dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM"):
                raise RefusedError(f"Unknown memory pool: {name}")
            if float(size.rstrip("BKMG") if self.major >= 10 else size) < 0:
                raise RefusedError(f"Negative memory pool size: {size}")
        if self.value("--sparsity", "enable") not in ("disable", "enable", "force"):
            raise RefusedError(f"Unknown sparsity mode: {self.value('--sparsity')}")
        levels = ["", "none", "ampere+"] + ["samecomputecapability"] * (self.major >= 10)
        if self.value("--hardwareCompatibilityLevel").lower() not in levels:
            raise RefusedError("Unknown hardwareCompatibilityLevel: …")
        if self.value("--precisionConstraints", "none") not in ("none", "prefer", "obey"):
            raise RefusedError("Unknown precision constraints: …")
        if not (self.has("--loadEngine") or self.has("--onnx")):
            raise RefusedError("Model missing or format not recognized")
        if self.has("--batch") or self.has("--maxBatch"):
            raise RefusedError("The --batch and --maxBatch flags should not be used when …")
        if unknown := sorted(set(self.options) - set(self.flags["accepts"])):
            raise RefusedError(*[f"Unknown option: {n} {self.options[n][0]}" for n in unknown])

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        pairs = [spec.rpartition(":") for spec in filter(None, self.value(name).split(","))]
        return {key.strip("'"): tuple(map(int, dims.split("x"))) for key, _, dims in pairs}

    # ---- phases

    def work(self) -> None:
        if self.has("--loadEngine"):
            header, model = self.load()
        else:
            header, model = self.build()
        if self.has("--buildOnly") or self.has("--skipInference"):
            return
        self.infer(header, model)

    def build(self) -> tuple[dict[str, Any], bytes]:
        failed = ("Failed to create engine from model or file.", "Engine set up failed")
        path = Path(self.value("--onnx"))
        if self.fault == "unsupported":
            raise FailedError(
                "[TRT] ModelImporter.cpp:776: input: \"t\"\noutput: \"y\"\nop_type: \"Frobnicate\"",
                "[TRT] ModelImporter.cpp:779: ERROR: builtin_op_importers.cpp:4870 In function "
                "importFallbackPluginImporter: [8] Assertion failed: creator && \"Plugin not "
                "found, are the plugin name, version, and namespace correct?\"",
                "Failed to parse onnx file", "Parsing model failed", *failed,
            )  # fmt: skip
        try:
            data = path.read_bytes()
            model = onnx.load_model_from_string(data)
        except Exception as error:
            raise FailedError(
                "Failed to parse onnx file", "Parsing model failed", *failed
            ) from error
        profile = self.profile(model, failed)
        self.calibrate(model)
        if self.has("--useDLACore") and self.fault == "no-dla":
            raise FailedError(
                "[TRT] 3: Cannot create DLA engine, 1 not available", "Building engine failed",
                *failed,
            )  # fmt: skip
        if self.fault == "no-tactic":
            raise FailedError(
                "[TRT] 10: [optimizer.cpp::computeCosts::3628] Error Code 10: Internal Error "
                "(Could not find any implementation for node conv1 + relu1.)",
                "Engine could not be created from network", "Building engine failed", *failed,
            )  # fmt: skip
        self.log("W", "[TRT] Your ONNX model has been generated with INT64 weights.")
        known_timings = self.read("--timingCacheFile")
        self.log("I", "Engine built in 0.25 sec.")
        header = {
            "version": self.version,
            "profile": profile,
            "options": {a.partition("=")[0]: a.partition("=")[2] for a in self.argv[1:]},
            "calibration": self.read("--calib"),
            "timings": known_timings,
            "folder": str(Path.cwd()),
        }
        engine = MAGIC + json.dumps(header).encode() + b"\n" + data
        if self.has("--saveEngine"):
            self.save(Path(self.value("--saveEngine")), engine)
        if cache := self.value("--timingCacheFile"):
            known = Path(cache).read_bytes() if Path(cache).is_file() else b""
            Path(cache).write_bytes(known + b"emulated timings;")
        if file := self.value("--exportLayerInfo"):
            tensors = "I/O Tensors" if self.major >= 11 else "Bindings"
            layers = [{"Name": n.name, "LayerType": n.op_type} for n in model.graph.node]
            Path(file).write_text(json.dumps({"Layers": layers, tensors: ["input", "logits"]}))
        return header, data

    def read(self, name: str) -> str:
        path = Path(self.value(name) or "none")
        return path.read_text() if path.is_file() else ""

    def save(self, path: Path, engine: bytes) -> None:
        if self.fault in ("killed", "hang"):
            path.write_bytes(engine[: len(engine) // 2])
            if self.fault == "hang":
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "disk-full":
            path.write_bytes(engine[: len(engine) // 2])
            raise FailedError("Saving engine to file failed.", "Engine set up failed")
        if self.fault != "no-engine":
            path.write_bytes(engine)

    def profile(self, model: onnx.ModelProto, failed: tuple[str, ...]) -> dict[str, Any] | None:
        tensor = _inputs(model)[0]
        dynamic = any(d.dim_param for d in tensor.type.tensor_type.shape.dim)
        bounds = [self.shapes(f"--{n}Shapes").get(tensor.name) for n in ("min", "opt", "max")]
        if not dynamic:
            if any(bounds):
                raise FailedError(
                    "Static model does not take explicit shapes since the shape …", *failed
                )
            return None
        if bounds == [None] * 3:
            self.log("W", "Dynamic dimensions required for input, but no shapes were provided.")
            fixed = [d.dim_value or 1 for d in tensor.type.tensor_type.shape.dim]
            return {tensor.name: [fixed] * 3}
        if not all(a <= b <= c for a, b, c in zip(*[b or () for b in bounds], strict=True)):
            raise FailedError("[TRT] 4: kMIN <= kOPT <= kMAX violated", *failed)
        return {tensor.name: [list(b or ()) for b in bounds]}

    def calibrate(self, model: onnx.ModelProto) -> None:
        quantized = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
        weak = "--fp16" in self.flags["accepts"] and not self.has("--stronglyTyped")
        if quantized and weak and not self.has("--int8"):
            raise FailedError(
                "[TRT] 4: [network.cpp::validate] Error Code 4: Internal Error (Int8 precision has "
                "been set for a layer or layer output, but int8 is not configured in the builder)",
                "Engine could not be created from network", "Building engine failed",
            )  # fmt: skip
        cache = self.value("--calib")
        if self.has("--int8") and not quantized:
            if not cache or not Path(cache).is_file():
                raise FailedError(
                    "emulation: the real program would now calibrate on random numbers"
                )
            lines = Path(cache).read_text().splitlines()
            names = {line.rpartition(":")[0] for line in lines[1:]}
            missing = {n.input[0] for n in model.graph.node if n.op_type == "Conv"} - names
            if lines[0] != f"TRT-{self.number}-EntropyCalibration2":
                raise FailedError(
                    "[TRT] Calibration table does not match calibrator algorithm type.",
                    "[TRT] 3: [executionContext.cpp::executeV2] Error Code 3: API Usage Error "
                    '(Parameter check failed, condition: nullPtrAllowed. Tensor "input" is bound '
                    "to nullptr)",
                )
            if missing:
                raise FailedError(
                    f"[TRT] Missing scale and zero-point for tensor {sorted(missing)}"
                )

    def load(self) -> tuple[dict[str, Any], bytes]:
        path = Path(self.value("--loadEngine"))
        if not path.is_file():
            raise FailedError(f"Error opening engine file: {path}", "Engine set up failed")
        head, _, model = path.read_bytes().partition(b"\n")
        if not head.startswith(MAGIC):
            raise FailedError(
                "[TRT] 1: [stdArchiveReader.cpp::StdArchiveReader::32] Error Code 1: Serialization "
                "(Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not "
                "match)",
                "Engine deserialization failed", "Got invalid engine!", "Inference set up failed",
            )  # fmt: skip
        header = json.loads(head[len(MAGIC) :])
        if header["version"] != self.version or self.fault == "other-version":
            raise FailedError(
                "[TRT] 6: The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {self.version} got {header['version']}, please "
                "rebuild.",
                "Engine deserialization failed", "Got invalid engine!", "Inference set up failed",
            )  # fmt: skip
        if "--useDLACore" in header["options"] and not self.has("--useDLACore"):
            raise FailedError("[TRT] DLA core was not set before deserialization", "…")
        if "--versionCompatible" in header["options"] and not self.has("--versionCompatible"):
            raise FailedError("[TRT] engine host code is not allowed", "…")
        self.log("I", "Engine loaded in 0.01 sec.")
        return header, model

    def infer(self, header: dict[str, Any], model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        feed = self.feed(header, _inputs(onnx.load_model_from_string(model))[0])
        self.log("I", "Starting inference")
        trace, outputs = self.measure(session, feed)
        if self.fault == "second-is-fast" and Path(header["folder"]).name != "1":
            for record in trace:  # as if the builder had chosen slower kernels
                for time_ in ("endComputeMs", "startD2hMs", "endD2hMs"):
                    record[time_] += 1000
        self.summary(trace)
        names = [o.name for o in session.get_outputs()]
        if file := self.value("--exportTimes"):
            Path(file).write_text(self.times(trace))
        if file := self.value("--exportOutput"):
            text = _output_json(dict(zip(names, outputs, strict=True)))
            Path(file).write_text(text[: len(text) // 2] if self.fault == "half-output" else text)
        if file := self.value("--exportProfile"):
            Path(file).write_text(self.layers(model, trace))

    def feed(self, header: dict[str, Any], tensor: Any) -> dict[str, Any]:
        dims = [d.dim_value for d in tensor.type.tensor_type.shape.dim]
        shape = self.shapes("--shapes").get(tensor.name)
        unknown = set(self.shapes("--shapes")) - {tensor.name}
        if unknown:
            self.log("E", f'Cannot find input tensor with name "{unknown.pop()}" in the engine')
            raise FailedError(
                "Invalid tensor names found in --shapes flag.", "Inference set up failed"
            )
        if header["profile"] is None:
            if shape and list(shape) != dims:
                raise FailedError("[TRT] Static dimension mismatch while setting input shape.")
        else:
            low, best, high = header["profile"][tensor.name]
            dims = list(shape or best)
            if not all(a <= b <= c for a, b, c in zip(low, dims, high, strict=True)):
                raise FailedError(
                    "[TRT] 3: [executionContext.cpp::setInputShape] Error Code 3: API Usage Error "
                    "(Parameter check failed: Supplied binding dimension exceeds max of profile)",
                    "Inference set up failed",
                )  # fmt: skip
        dtype = np.dtype(_DTYPES[tensor.type.tensor_type.elem_type])
        return {tensor.name: self.loaded(tensor.name, dims, dtype)}

    def loaded(self, name: str, dims: list[int], dtype: np.dtype[Any]) -> Any:
        files = dict(
            s.rpartition(":")[::2] for s in filter(None, self.value("--loadInputs").split(","))
        )
        size = int(np.prod(dims)) * dtype.itemsize
        if name not in files:
            rng = np.random.default_rng(0)
            return rng.integers(0, 255, dims).astype(dtype) if dtype.kind == "u" else (
                rng.uniform(-1, 1, dims).astype(dtype)
            )  # fmt: skip
        try:
            data = Path(files[name]).read_bytes()
        except OSError as error:
            raise FailedError(
                f"Cannot open file {files[name]}!", "Inference set up failed"
            ) from error
        if self.major == 8 and self.minor < 5:
            data = data[:size].ljust(size, b"\0")  # 8.2 does not look at the size
        if len(data) != size and not (self.major == 8 and len(data) > size):
            raise FailedError(f"Unexpected file size for input file: {files[name]}.")
        return np.frombuffer(data[:size], dtype).reshape(dims)

    def measure(self, session: Any, feed: dict[str, Any]) -> tuple[list[dict[str, float]], Any]:
        transfers = self.has("--includeDataTransfers") if self.major >= 11 else (
            not self.has("--noDataTransfers")
        )  # fmt: skip
        warm_up = float(self.value("--warmUp", "200"))
        duration = 1000 * float(self.value("--duration", "3"))
        count = int(self.value("--iterations", "10"))
        trace: list[dict[str, float]] = []
        origin = time.perf_counter()

        def now() -> float:
            return 1000 * (time.perf_counter() - origin)

        done = 0
        while True:
            start = now()
            device = {k: v.copy() for k, v in feed.items()} if transfers else feed
            uploaded = now()
            outputs = session.run(None, device)
            computed = now()
            _ = [o.copy() for o in outputs] if transfers else None
            end = now() if transfers else computed
            trace.append({
                "startEnqMs": start, "endEnqMs": uploaded,
                "startH2dMs": start, "endH2dMs": uploaded if transfers else start,
                "startComputeMs": uploaded, "endComputeMs": computed,
                "startD2hMs": computed, "endD2hMs": end,
            })  # fmt: skip
            done += uploaded >= warm_up
            if done >= count and end >= warm_up + duration:
                break
        self.warm_ups = len(trace) - done
        if self.fault == "slow-start":
            trace[0]["endComputeMs"] += 1000
        return trace, outputs

    def summary(self, trace: list[dict[str, float]]) -> None:
        measured = trace[self.warm_ups :]
        wall = measured[-1]["endD2hMs"] - measured[0]["startH2dMs"]
        self.log("I", f"Warmup completed {self.warm_ups} queries over 200 ms")
        self.log("I", f"Timing trace has {len(measured)} queries over {wall / 1000:g} s")
        self.log("I", f"Throughput: {1000 * len(measured) / wall:g} qps")
        self.log("W", "* GPU compute time is unstable, with coefficient of variance = 3.2%.")

    def times(self, trace: list[dict[str, float]]) -> str:
        old = self.major == 8 and self.minor < 5  # 8.2 also exports the warm-up
        rows = []
        for record in trace if old else trace[self.warm_ups :]:
            parts = {
                part: record[f"end{part[0].upper()}{part[1:]}Ms"]
                - record[f"start{part[0].upper()}{part[1:]}Ms"]
                for part in ("h2d", "compute", "d2h")
            }
            row = {**record, **{f"{part}Ms": ms for part, ms in parts.items()}}
            row["latencyMs"] = sum(parts.values())
            if old:
                row["endToEndMs"] = record["endD2hMs"] - record["startH2dMs"]
            rows.append("{ " + ", ".join(f'"{k}" : {v:g}' for k, v in row.items()) + " }")
        return "[\n  " + "\n, ".join(rows) + "\n]\n"

    def layers(self, model: bytes, trace: list[dict[str, float]]) -> str:
        nodes = [n.name for n in onnx.load_model_from_string(model).graph.node]
        share, count = 100 / len(nodes), len(trace)
        total = sum(r["endComputeMs"] - r["startComputeMs"] for r in trace) / len(nodes)
        median = "" if (self.major, self.minor) < (8, 5) else f', "medianMs" : {total / count:g}'
        rows = [
            f', {{ "name" : "{name}", "timeMs" : {total:g}, "averageMs" : {total / count:g}'
            f'{median}, "percentage" : {share:g} }}'
            for name in nodes
        ]
        return "\n".join(["[", f'  {{ "count" : {count} }}', *rows, "]", ""])


def _inputs(model: onnx.ModelProto) -> list[Any]:
    constants = {i.name for i in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in constants]


def _output_json(outputs: dict[str, Any]) -> str:
    """Six significant digits, as a C++ stream writes them."""
    rows = [
        f'{{ "name" : "{name}"\n  , "dimensions" : "{"x".join(map(str, value.shape))}"\n'
        f'  , "values" : [ {", ".join(f"{v:g}" for v in value.ravel().tolist())} ]\n  }}\n'
        for name, value in outputs.items()
    ]
    return "[\n  " + ", ".join(rows) + "]\n"


def main(version: str, fault: str, argv: list[str]) -> int:
    """Run; the installed ``trtexec`` calls this."""
    if fault == "garbage":
        sys.stdout.buffer.write(os.urandom(4096) + b"\n" * 100)
        return 0
    if fault == "endless":
        while True:
            sys.stdout.write("&&&& " * 200 + "\n")
    return Standin(version, fault, argv).main()
