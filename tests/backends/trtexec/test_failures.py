from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.trtexec.failures import explain, succeeded, warnings_in
from resnet_edge.backends.trtexec.process import ProcessResult

STAMP = "[11/24/2026-08:00:00]"
ECHOES = (
    "Engine could not be created from network", "Building engine failed",
    "Failed to create engine from model or file.", "Engine set up failed",
)  # fmt: skip


def log(*errors: str) -> str:
    lines = ["&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec", f"{STAMP} [I] hello"]
    lines += [f"{STAMP} [E] {error}" for error in (*errors, *ECHOES)]
    return "\n".join([*lines, "&&&& FAILED TensorRT.trtexec [TensorRT v8502] # trtexec", ""])


# Wordings from the compatibility notes and the public sources.
SYMPTOMS = [
    (
        "[TRT] 6: The engine plan file is not compatible with this version of TensorRT, expecting "
        "library version 8.6.1 got 8.5.2, please rebuild.",
        "built with TensorRT 8.5.2, this machine runs 8.6.1", "build it again",
    ),
    (
        "[TRT] 1: [stdArchiveReader.cpp] Serialization assertion stdVersionRead == "
        "kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 232, "
        "Serialized Engine Version: 205", "built with TensorRT 8.2", "build it again",
    ),
    ("[TRT] header.magicTag == kEXPECTED_MAGIC_TAG failed", "no engine", "build it again"),
    (
        "[TRT] The engine plan file is generated on an incompatible device, expecting compute 8.7 "
        "got compute 8.6, please rebuild.", "capability 8.6, this GPU has 8.7", "build it again",
    ),
    ("[TRT] CUDA initialization failure with error: 35", "no usable NVIDIA driver", ""),
    ("[TRT] No importer registered for op: GridSample", "operator GridSample", "lint"),
    (
        "[TRT] 10: Could not find any implementation for node conv1 + relu1.", "conv1",
        "--workspace",
    ),
    ("[TRT] 2: Out of memory (requested 1073741824 bytes)", "not enough memory", "swap"),
    ("Saving engine to file failed.", "could not be written", "disk space"),
    (
        "[TRT] 4: Int8 precision has been set for a layer or layer output, but int8 is not "
        "configured in the builder", "quantized", "--int8",
    ),
    ("[TRT] Cannot create DLA engine, 1 not available", "no DLA core 1", "--dla"),
    ("Unknown option: --noSuch ", "option --noSuch", "report"),
    ("[TRT] Missing scale and zero-point for tensor x", "no range for x", "calibrate"),
    ("[TRT] 3: (Parameter check failed: Supplied binding dimension", "profile", "--profile"),
]  # fmt: skip


@pytest.mark.parametrize(("symptom", "message", "hint"), SYMPTOMS)
def test_a_known_symptom_is_translated(symptom: str, message: str, hint: str) -> None:
    said, advice = explain(ProcessResult(1, log(symptom)))
    assert message in said
    assert advice is not None
    assert hint in advice


def test_the_cause_is_quoted_and_not_its_echoes() -> None:
    said, advice = explain(ProcessResult(1, log("[TRT] 9: Something nobody has seen", "")))
    assert (said, advice) == ("9: Something nobody has seen", None)


def test_only_echoes_are_better_than_nothing() -> None:
    assert explain(ProcessResult(1, log()))[0].endswith("Engine set up failed")


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (
            ProcessResult(-9, log("[TRT] last words")),
            "ended by SIGKILL; its last words: last words",
        ),
        (ProcessResult(-6, ""), "ended by SIGABRT"),
        (ProcessResult(-200, ""), "ended by signal 200"),
        (ProcessResult(None, "", "it took too long"), "it took too long"),
        (ProcessResult(None, log("[TRT] busy"), "it took too long"), "its last words: busy"),
        (ProcessResult(7, ""), "ended with status 7 and no word"),
        (ProcessResult(0, ""), "ended with status 0 and no word"),
        (ProcessResult(127, "sh: trtexec: broken\n"), "sh: trtexec: broken"),
    ],
)
def test_every_way_to_end_has_words(outcome: ProcessResult, message: str) -> None:
    assert message in explain(outcome)[0]


def test_success_is_an_exit_status_and_a_word() -> None:
    passed = "&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec\n"
    assert succeeded(ProcessResult(0, passed))
    assert not succeeded(ProcessResult(1, passed))
    assert not succeeded(ProcessResult(0, "all went well: &&&& PASSED x\n"))
    assert not succeeded(ProcessResult(None, passed, "it took too long"))


def test_warnings_of_the_builder_once_and_without_the_remarks_on_timing() -> None:
    text = "\n".join(
        f"{STAMP} [W] {line}"
        for line in (
            "[TRT] onnx2trt_utils.cpp: INT64 weights", "[TRT] onnx2trt_utils.cpp: INT64 weights",
            "* GPU compute time is unstable, with coefficient of variance = 3.2%.",
            "  If not already in use, locking GPU clock frequency may improve the stability.",
            "--workspace flag has been deprecated by --memPoolSize flag.",
        )
    )  # fmt: skip
    assert warnings_in(text) == (
        "onnx2trt_utils.cpp: INT64 weights",
        "--workspace flag has been deprecated by --memPoolSize flag.",
    )


@given(
    st.text(),
    st.one_of(st.none(), st.integers(-70, 255)),
    st.sampled_from(["", "it took too long"]),
)
def test_whatever_it_printed_the_explanation_is_one_short_printable_line(
    text: str, code: int | None, stopped: str
) -> None:
    for said in (text, log(text)):
        message, _ = explain(ProcessResult(code, said, stopped))
        assert message
        assert message.isprintable()
        assert len(message) < 1000
