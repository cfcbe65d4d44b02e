"""What trtexec says when it fails, in words that help."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from resnet_edge.trtexec.process import Outcome

__all__ = ["explain", "succeeded", "warnings_in"]

_STAMP = r"\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] "
_LINE = re.compile(rf"^{_STAMP}\[([EFWIV])\] (.*)$", re.MULTILINE)
# Each phase reports that it failed because the one before did; the reason stands further up.
_ECHOES = re.compile(
    r"^(Engine set up failed|Inference set up failed|Building engine failed|Parsing model failed"
    r"|Failed to (create engine from model( or file)?|parse onnx file)\.?"
    r"|Engine could not be created from network|Got invalid engine!?"
    r"|Engine deserialization failed\.?|Error occurred during inference|)$"
)
_MOST = 300  # characters of a line


class _Known(NamedTuple):
    symptom: str
    message: str
    hint: str


_KNOWN = tuple(
    _Known(*row)
    for row in (
        (
            r"expecting library version (\S+) got ([\d.]+)",
            "the engine was built with TensorRT {1}, this trtexec is {0}",
            "build it again here from the ONNX file",
        ),
        (
            r"stdVersionRead == \w*SERIALIZATION_VERSION",
            "the engine was built with another version of TensorRT",
            "build it again here from the ONNX file",
        ),
        (
            r"[Mm]agic ?[Tt]ag",
            "this file is not an engine of this TensorRT",
            "an RTX engine, or one with something in front of it, does not load; build it again",
        ),
        (
            r"incompatible device.*expecting compute ([\d.]+) got compute ([\d.]+)",
            "the engine was built for compute capability {1}, this GPU has {0}",
            "build it again here from the ONNX file",
        ),
        (
            r"insufficient for CUDA runtime|CUDA initialization failure|no CUDA-capable device"
            r"|Cannot find any available devices",
            "there is no usable NVIDIA GPU or driver",
            "trtexec builds and runs only on the device itself",
        ),
        (
            r"(libnv\w+\.so[.\d]*|libcud\w+\.so[.\d]*)[^\n]*(?:cannot open|No such file)",
            "the library {0} is missing",
            "install the TensorRT packages trtexec belongs to, or add them to LD_LIBRARY_PATH",
        ),
        (
            r"Unknown option: (\S+)",
            "it does not know the option {0}",
            "its --help lists another set than it accepts; please report this version",
        ),
        (
            r"No importer registered for op: (\w+)|op_type: \"(\w+)\"|Plugin not found",
            "TensorRT cannot read the operator {0}",
            "check the graph with: resnet-edge lint",
        ),
        (
            r"Could not find any implementation for node ([^.)]+)|no tactics to implement",
            "no kernel fits for {0} within the workspace",
            "give the builder more memory (--workspace); on small boards close the desktop",
        ),
        (
            r"[Oo]ut of memory|OutOfMemory|std::bad_alloc|cudaErrorMemoryAllocation",
            "it ran out of memory",
            "build with a smaller --profile; on small boards add swap and close the desktop",
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
            r"[Mm]issing scale and zero-point for tensor ([^\n]+)|no scaling factors detected",
            "the calibration cache lacks scales",
            "calibrate again, with every tensor",
        ),
        (
            r"Cannot create DLA engine, (\d+) not available",
            "there is no DLA core {0}",
            "Orin Nano, Thor and desktop GPUs have none",
        ),
        (
            r"Static dimension mismatch|binding dimension|out of profile range|exceeds max",
            "the batch is outside the engine's profile",
            "build with a wider --profile",
        ),
    )
)


def succeeded(outcome: Outcome) -> bool:
    """Whether trtexec ended well and says so."""
    return outcome.code == 0 and re.search(r"^&&&& PASSED ", outcome.text, re.M) is not None


def explain(outcome: Outcome) -> tuple[str, str | None]:
    """Return why a run failed, as a message and what to do about it.

    Both come from the symptoms known; else the message is the last thing trtexec complained of.
    """
    said = _last_words(outcome.text)
    for symptom, message, hint in _KNOWN:
        if found := re.search(symptom, outcome.text):
            named = [group for group in found.groups() if group] or ["a layer"]
            translated = message.format(*[_short(group) for group in named])
            return (f"{translated} ({said})" if said else translated), hint
    if outcome.stopped:
        return f"{outcome.stopped}{f'; its last words: {said}' if said else ''}", None
    if outcome.code is not None and outcome.code < 0:
        return _killed(-outcome.code, said)
    if outcome.code == 0 and not said:
        return "it ended without saying that it passed", None
    return said or f"exit status {outcome.code}, without a word", None


def warnings_in(text: str) -> tuple[str, ...]:
    """Return what TensorRT warned about, each text once; trtexec's remarks on timing do not count.

    Those begin with ``*`` or with the two spaces that continue them.
    """
    found = [line for severity, line in _LINE.findall(text) if severity == "W"]
    lines = [
        line.removeprefix("[TRT] ").strip() for line in found if not line.startswith(("*", " "))
    ]
    return tuple(dict.fromkeys(_short(line) for line in lines))


def _killed(number: int, said: str) -> tuple[str, str | None]:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = None
    if number == signal.SIGKILL:
        hint = "the system may have run out of memory: add swap, close the desktop"
    return f"it was ended by {name}{f'; its last words: {said}' if said else ''}", hint


def _last_words(text: str) -> str:
    """Return the last error that is not an echo, else the last line at all."""
    lines = _LINE.findall(text)
    errors = [line.removeprefix("[TRT] ").strip() for kind, line in lines if kind in "EF"]
    causes = [line for line in errors if not _ECHOES.match(line)] or errors
    if causes:
        return _short(causes[-1])
    plain = [line.strip() for line in text.splitlines() if line.strip()]
    plain = [line for line in plain if not line.startswith("&&&& ") and not _LINE.match(line)]
    return _short(plain[-1]) if plain else ""


def _short(line: str) -> str:
    printable = "".join(c if c.isprintable() else "·" for c in line.strip())
    return printable if len(printable) <= _MOST else printable[: _MOST - 1] + "…"
