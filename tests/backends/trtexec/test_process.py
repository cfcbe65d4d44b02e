from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_edge.backends.trtexec import process
from resnet_edge.backends.trtexec.process import run_program
from resnet_edge.errors import BackendUnavailableError

PYTHON = Path(sys.executable)


def python(program: str, *, seconds: float = 60.0) -> process.Outcome:
    return run_program(PYTHON, ["-c", program], seconds=seconds)


def test_both_channels_and_the_exit_status_come_back() -> None:
    found = python("import sys; print('out', flush=True); print('err', file=sys.stderr); exit(3)")
    assert (found.code, found.text, found.stopped) == (3, "out\nerr\n", "")


def test_it_runs_in_the_folder_and_reads_nothing(tmp_path: Path) -> None:
    program = "import os, sys; print(os.getcwd(), repr(sys.stdin.read()))"
    found = run_program(PYTHON, ["-c", program], folder=tmp_path, seconds=60.0)
    assert found.text == f"{tmp_path} ''\n"


def test_a_signal_is_a_negative_status() -> None:
    assert python("import os; os.kill(os.getpid(), 9)").code == -9


def test_what_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = (
        f"import time, pathlib\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(.05)"
    )
    program = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); "
        "print('started', flush=True); time.sleep(600)"
    )
    found = python(program, seconds=3.0)
    assert (found.code, found.text, found.stopped) == (None, "started\n", "it took too long")
    time.sleep(0.3)  # a touch under way may still end
    alive.unlink(missing_ok=True)
    time.sleep(0.5)
    assert not alive.exists()


def test_an_interrupt_ends_the_program_too(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = (
        f"import time, pathlib\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(.05)"
    )
    caller = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # if ignored
        "import pathlib, sys; from resnet_edge.backends.trtexec.process import run_program; "
        f"run_program(pathlib.Path(sys.executable), ['-c', {child!r}], seconds=600.0)"
    )
    with subprocess.Popen([PYTHON, "-c", caller], stderr=subprocess.DEVNULL) as running:
        while not alive.exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) != 0
    time.sleep(0.3)  # a touch under way may still end
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()


def test_a_program_that_closes_its_channels_and_stays_is_ended() -> None:
    found = python("import os, time; os.close(1); os.close(2); time.sleep(600)", seconds=2.0)
    assert (found.code, found.stopped) == (None, "it did not end")


def test_endless_output_is_cut_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_TOO_MUCH", 1 << 22)
    found = python("print('first')\nwhile True: print('x' * 99)")
    assert found.stopped == "it printed without end"
    assert found.text.startswith("first\n")
    assert len(found.text) < (1 << 21)


def test_of_long_output_the_beginning_and_the_end_are_kept() -> None:
    found = python("print('first'); print(('y' * 99 + '\\n') * 30_000); print('last')")
    assert found.code == 0
    assert found.text.startswith("first\n")
    assert found.text.endswith("last\n")
    assert "\n...\n" in found.text


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert python("import sys; sys.stdout.buffer.write(b'a\\xff\\xfeb')").text == "a��b"


def test_what_cannot_be_started_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="cannot be started"):
        run_program(tmp_path / "none", [], seconds=1.0)
