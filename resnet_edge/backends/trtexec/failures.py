"""What trtexec says when it fails, in words that help."""

from __future__ import annotations

import re
import signal

from resnet_edge.backends.tensorrt.messages import explain as explain_tensorrt
from resnet_edge.backends.trtexec.process import ProcessResult

__all__ = ["explain", "succeeded", "warnings_in"]

_LINE = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[([EFWIV])\] (.*)$", re.MULTILINE)
# Each phase reports that it failed because the one before did; the reason stands further up.
_ECHO = re.compile(
    r"(Engine set up failed|Inference set up failed|Building engine failed|Parsing model failed"
    r"|Failed to (create engine from model( or file)?|parse onnx file)\.?"
    r"|Engine could not be created from network|Got invalid engine!?"
    r"|Engine deserialization failed\.?|Error occurred during inference|)"
)
_LONGEST = 300  # characters of a line that is quoted

# What the program itself, the loader or the parser in it say; the first that matches is taken.
# TensorRT's own messages are the same as through its Python bindings.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"(?P<what>lib(?:nv|cu)\w+\.so[.\d]*)[^\n]*(?:cannot open|No such file)",
        "the library {what} is missing",
        "install the TensorRT packages that trtexec belongs to, or set LD_LIBRARY_PATH",
    ),
    (
        r"Cannot find any available devices|no CUDA-capable device|CUDA driver version is insuff",
        "there is no usable NVIDIA GPU or driver",
        "trtexec builds and runs only on the device itself",
    ),
    (
        r"Unknown option: (?P<what>\S+)",
        "it does not know the option {what}, which its help lists",
        "please report this with the version",
    ),
    (
        r'op_type: "(?P<what>\w+)"',
        "TensorRT cannot read the operator {what}",
        "see what it would refuse: resnet-edge lint",
    ),
    (
        r"Saving engine to file failed|No space left on device",
        "the engine could not be written",
        "free some disk space and run the same command again; nothing was lost",
    ),
    (
        r"int8 is not configured in the builder",
        "the graph is quantized, but INT8 was not asked for",
        "add --int8",
    ),
    (
        r"[Mm]issing scale and zero-point for tensor (?P<what>[^\n]+)",
        "the calibration has no range for {what}",
        "calibrate this model again",
    ),
    (
        r"Static dimension mismatch|Supplied binding dimension|out of profile range",
        "the batch is outside the engine's profile",
        "build with a wider --profile",
    ),
)


def succeeded(outcome: ProcessResult) -> bool:
    """Whether trtexec ended well and says so."""
    return outcome.code == 0 and re.search(r"^&&&& PASSED ", outcome.text, re.M) is not None


def explain(outcome: ProcessResult) -> tuple[str, str | None]:
    """Return why a run failed, and what to do about it where that is known."""
    complaints = _complaints(outcome.text)
    last = complaints[-1] if complaints else ""
    for pattern, meaning, hint in _KNOWN:
        if found := re.search(pattern, outcome.text):
            named = {name: _short(text) for name, text in found.groupdict().items()}
            return meaning.format(**named) + (f" ({last})" if last else ""), hint
    message, advice = explain_tensorrt(complaints) if complaints else ("", None)
    if advice is not None:
        return message, advice
    words = f"; its last words: {last}" if last else ""
    if outcome.stopped:
        return outcome.stopped + words, None
    if outcome.code is not None and outcome.code < 0:
        return f"it was ended by {_signal(-outcome.code)}{words}", (
            "the system may have run out of memory: add swap, close the desktop"
            if outcome.code == -signal.SIGKILL
            else None
        )
    if not last:
        return f"it ended with status {outcome.code} and no word why", None
    return message, None


def warnings_in(text: str) -> tuple[str, ...]:
    """Return what TensorRT warned about, each text once; trtexec's remarks on timing do not count.

    Those begin with ``*``, or with the two spaces that continue them.
    """
    found = [line for severity, line in _LINE.findall(text) if severity == "W"]
    return tuple(dict.fromkeys(_short(line) for line in found if not line.startswith(("*", " "))))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _complaints(text: str) -> list[str]:
    """Return the errors that are no echoes, else all, else the last line that says anything."""
    errors = [_short(line) for kind, line in _LINE.findall(text) if kind in "EF"]
    if causes := [line for line in errors if not _ECHO.fullmatch(line)] or errors:
        return causes
    plain = [_short(line) for line in text.splitlines() if not _LINE.match(line)]
    return [line for line in plain if line and not line.startswith("&&&& ")][-1:]


def _short(line: str) -> str:
    line = line.removeprefix("[TRT] ").strip()
    printable = "".join(c if c.isprintable() else "·" for c in line)
    return printable if len(printable) <= _LONGEST else printable[: _LONGEST - 1] + "…"
