"""Raw messages of TensorRT, as its users have reported them, become what to do about them."""

from __future__ import annotations

import pytest

from resnet_edge.backends.tensorrt.messages import explain

RAW = [
    (
        "6: The engine plan file is not compatible with this version of TensorRT, expecting library"
        " version 10.3.0.30 got 8.6.1.6, please rebuild.",
        "built with TensorRT 8.6.1.6, this machine runs 10.3.0.30",
        "build it again",
    ),
    (
        "1: [stdArchiveReader.cpp::StdArchiveReader::42] Error Code 1: Serialization (Serialization"
        " assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. "
        "Note: Current Version: 232, Serialized Engine Version: 237)",
        "built with TensorRT 10.0, this machine runs 8.5",
        "build it again",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
        "stdVersionRead == kSERIALIZATION_VERSION failed. Current Version: 240, Serialized Engine "
        "Version: 239)",
        "built with TensorRT 239, this machine runs 240",
        "build it again",
    ),
    (
        "6: The engine plan file is generated on an incompatible device, expecting compute 8.7 got"
        " compute 8.6, please rebuild.",
        "built for compute capability 8.6, this GPU has 8.7",
        "build it again",
    ),
    (
        "1: [stdArchiveReader.cpp::StdArchiveReaderInitCommon::47] Error Code 1: Serialization "
        "(Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match)",
        "no engine of this TensorRT",
        "build it again",
    ),
    # from the strings in libnvinfer.so.8.6.0
    ("Could not determine path for lean runtime!", "lean runtime", "tensorrt_lean"),
    # TensorRT 8.6.0 on an H100 whose library had been changed
    (
        "2: [builder.cpp::createCaskKernelLibraryImpl::182] Error Code 2: Internal Error (Assertion"
        " validateCaskKLibDigest(sha256sum) failed. )",
        "libnvinfer_builder_resource",
        "install TensorRT again",
    ),
    ("CUDA initialization failure with error: 35", "no usable NVIDIA driver", "tensorrt_rtx"),
    (
        "1: [defaultAllocator.cpp::allocate::21] Error Code 1: Cuda Runtime (out of memory)",
        "not enough memory",
        "swap",
    ),
    (
        "10: Could not find any implementation for node {ForeignNode[/conv1/Conv]}.",
        "{ForeignNode[/conv1/Conv]}",
        "--workspace",
    ),
    (
        "Tactic Selection: no tactics to implement the operation within workspace limit",
        "no kernel for a layer",
        "--workspace",
    ),
    (
        "4: [network.cpp::validate::3062] Error Code 4: Internal Error (Network has dynamic or "
        "shape inputs, but no optimization profile has been defined.)",
        "needs a profile",
        "--profile",
    ),
    (
        "Error Code 2: Internal Error (Assertion !scales.empty() failed. Calibration failure "
        "occurred with no scaling factors detected.)",
        "INT8 has no ranges",
        "calibrate",
    ),
    ("Cannot create DLA engine, 1 not available", "no DLA core 1", "--dla"),
    ("DLA only supports FP16 and Int8 precision type", "FP16 and INT8 only", "--fp16"),
    (
        "Unable to load library: libnvinfer_lean.so.1: cannot open shared object file",
        "libnvinfer_lean.so.1",
        "install",
    ),
    (
        "In node 3 (importModel): UNSUPPORTED_NODE: No importer registered for op: GridSample",
        "operator GridSample",
        "lint",
    ),
    (
        'Einsum /e: creator && "Plugin not found, are the plugin name, version, and namespace '
        'correct?"',
        "operator Einsum",
        "lint",
    ),
    ("Failed to parse the ONNX model.", "no ONNX model", "export"),
]


@pytest.mark.parametrize(("raw", "meaning", "way_out"), RAW)
def test_a_known_message_says_what_is_wrong_and_what_to_do(
    raw: str, meaning: str, way_out: str
) -> None:
    message, hint = explain(["Unexpected Internal Error", raw])
    assert meaning in message
    assert raw in message
    assert hint is not None
    assert way_out in hint


def test_an_unknown_message_is_passed_on() -> None:
    assert explain(["one", "two", "three", "four"]) == ("two; three; four", None)


def test_silence_is_said() -> None:
    assert explain([]) == ("TensorRT gave no reason", None)
