"""TensorRT's and the driver's messages, turned into what is wrong and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["explain"]

_REBUILD = "build it again on this device, from the bundle's ONNX"
_SERIALIZATION = {"205": "8.2", "213": "8.4", "232": "8.5", "236": "8.6", "237": "10.0"}

# What TensorRT says: what it means, and the way out. The first that matches is taken.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"Current Version: (?P<here>\d+), Serialized Engine Version: (?P<there>\d+)",
        "the engine was built with TensorRT {there}, this machine runs {here}",
        _REBUILD,
    ),
    (
        r"expecting library version (?P<here>[\d.]+) got (?P<there>[\d.]+)",
        "the engine was built with TensorRT {there}, this machine runs {here}",
        _REBUILD,
    ),
    (
        r"expecting compute (?P<here>[\d.]+) got compute (?P<there>[\d.]+)",
        "the engine was built for compute capability {there}, this GPU has {here}",
        _REBUILD,
    ),
    (
        r"magicTag|[Mm]agic tag",
        "the file is no engine of this TensorRT: it is damaged, or TensorRT for RTX made it "
        "(or the other way round)",
        _REBUILD,
    ),
    (
        r"error:? 35\b|CUDA driver version is insufficient",
        "there is no usable NVIDIA driver or GPU (CUDA error 35: the driver is older than the CUDA "
        "runtime, or absent)",
        "only tensorrt_rtx builds on a machine without a GPU: pass the target of an RTX card",
    ),
    (
        r"[Oo]ut of memory|std::bad_alloc|CUDA error:? 2\b|memory.* could not be allocated",
        "there was not enough memory",
        "close other programs (on a Jetson CPU and GPU share the memory: add swap, close the "
        "desktop), lower --workspace, --optimization-level or the largest batch of --profile",
    ),
    (
        r"no tactics to implement|Could not find any implementation for node (?P<node>\S+)",
        "the builder found no kernel for {node} within the workspace",
        "raise --workspace, or leave it out",
    ),
    (
        r"no optimization profile has been defined",
        "the model takes any batch, which needs a profile",
        "pass --profile smallest,optimal,largest",
    ),
    (
        r"satisfy MIN<=OPT<=MAX|is missing dimensions in profile|don't match kOPT",
        "the profile does not fit the model's input",
        "pass --profile smallest,optimal,largest, or one number for a model of fixed batch",
    ),
    (
        r"no scaling factors detected|Users must provide dynamic range",
        "INT8 has no ranges: the calibration cache names no tensor of this network",
        "calibrate this model again, or leave out --implicit",
    ),
    (
        r"[Cc]annot create DLA engine, (?P<core>\d+) not available",
        "there is no DLA core {core} here",
        "leave out --dla, or pass another core",
    ),
    (
        r"DLA only supports FP16 and Int8",
        "the DLA computes in FP16 and INT8 only",
        "add --fp16 or --int8",
    ),
    (
        r"path for lean runtime|create lean runtime|createLeanRuntime",
        "a version-compatible engine carries TensorRT's lean runtime, which is missing here",
        "install it in the version of TensorRT (pip: tensorrt_lean; Debian: libnvinfer-lean), or "
        "leave out --version-compatible",
    ),
    (
        r"validateCaskKLibDigest",
        "TensorRT's library of kernels (libnvinfer_builder_resource) is damaged",
        "install TensorRT again",
    ),
    (
        r"Unable to load library: (?P<library>\S+)",
        "the library {library} is missing",
        "install the whole of TensorRT, or leave out the option that needs this library",
    ),
    (
        r"[Uu]nsupported ONNX.* opset|opset version.*(?:not supported|unsupported)",
        "this TensorRT's parser does not know the graph's opset",
        "build with weak typing (leave out --strongly-typed): that graph has opset 17",
    ),
    (
        r"No importer registered for op: (?P<op>\w+)|^(?P<operator>\w+).*Plugin not found",
        "this TensorRT does not know the operator {operator}",
        "see what it would refuse: resnet-edge lint",
    ),
    (
        r"input file cannot be found|not a regular file|[Ff]ailed to parse the ONNX model",
        "the file is no ONNX model, or its external data is missing",
        "export it again",
    ),
)


def explain(said: Iterable[str]) -> tuple[str, str | None]:
    """Return what TensorRT's errors mean, and what to do about it.

    The raw text of the last few stays in the message, since a message nobody foresaw is the only
    trace of what went wrong.
    """
    texts = list(said)
    raw = "; ".join(texts[-3:]) or "TensorRT gave no reason"
    for pattern, meaning, hint in _KNOWN:
        for text in texts:
            if match := re.search(pattern, text):
                return f"{_fill(meaning, match)} ({text})", hint
    return raw, None


def _fill(meaning: str, match: re.Match[str]) -> str:
    """Put what the pattern found into the meaning; serialization numbers become versions."""
    found = {name: value or "a layer" for name, value in match.groupdict().items()}
    if "op" in found:
        found["operator"] = match["op"] or match["operator"]
    versions = {k: _SERIALIZATION.get(v, v) for k, v in found.items() if k in ("here", "there")}
    return meaning.format(**{**found, **versions})
