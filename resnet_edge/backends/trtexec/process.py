"""Start a program, read what it prints, and end it in time, whatever it does."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resnet_edge.errors import BackendUnavailableError

__all__ = ["ProcessResult", "run_program"]

_HEAD, _TAIL, _TOO_MUCH = 1 << 18, 1 << 20, 1 << 27  # bytes


@dataclass(frozen=True)
class ProcessResult:
    """How a program ended.

    Attributes:
        code: Exit status, negative if a signal ended it, None if it was ended from here.
        text: What it printed on both channels; the middle is missing where it is very long.
        stopped: Why it was ended from here; empty otherwise.
    """

    code: int | None
    text: str
    stopped: str = ""


def run_program(
    program: Path, arguments: Sequence[str], *, folder: Path | None = None, seconds: float
) -> ProcessResult:
    """Run a program to its end, in a session of its own, with nothing on stdin.

    Args:
        program: The executable.
        arguments: Without the program's name.
        folder: Working directory.
        seconds: How long it may take.

    Raises:
        BackendUnavailableError: It cannot be started.
    """
    try:
        process = subprocess.Popen(
            [program, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise BackendUnavailableError(
            f"{program} cannot be started: {error.strerror}",
            hint="it must be an executable for this machine",
        ) from error
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    try:
        text, stopped = _read(process.stdout.fileno(), deadline)
        if not stopped:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            stopped = "" if process.returncode is not None else "it did not end"
        code = None if stopped else process.returncode
        return ProcessResult(code, text.decode(errors="replace"), stopped)
    finally:
        if process.returncode is None:  # not waited for, so its number is still its own
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def _read(descriptor: int, deadline: float) -> tuple[bytes, str]:
    """Read until the end or the deadline; return the text and why the reading was given up."""
    head, tail, total = bytearray(), bytearray(), 0
    stopped = ""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not stopped:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                stopped = "it took too long"
                break
            block = os.read(descriptor, 1 << 16)
            if not block:
                break
            total += len(block)
            room = _HEAD - len(head)
            head += block[:room]
            tail = (tail + block[room:] if room > 0 else tail + block)[-_TAIL:]
            if total > _TOO_MUCH:
                stopped = "it printed without end"
    gap = b"\n...\n" if total > len(head) + len(tail) else b""
    return bytes(head + gap + tail), stopped
