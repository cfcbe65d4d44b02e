"""A process that answers lines of JSON, and what is said when it does not."""

from __future__ import annotations

import sys

import pytest

from resnet_edge.bench.worker_process import Worker
from resnet_edge.errors import BackendUnavailableError

ECHO = (
    "import json, sys; print(json.dumps({'ready': True}), flush=True)\n"
    "for line in sys.stdin: print(json.dumps({'got': json.loads(line)}), flush=True)"
)
DIES = "import sys; sys.exit('no such device')"
DIES_LATER = "import sys; print('{}', flush=True); sys.stdin.readline(); sys.exit('out of memory')"


def worker(code: str) -> Worker:
    return Worker("the contender", [sys.executable, "-c", code])


def test_every_command_gets_its_answer() -> None:
    with worker(ECHO) as running:
        assert running.first == {"ready": True}
        answers = [running.ask(seconds=1, count=n) for n in (1, 2)]
    assert answers == [{"got": {"seconds": 1, "count": n}} for n in (1, 2)]


def test_a_process_that_cannot_start_is_named_with_its_last_message() -> None:
    with pytest.raises(BackendUnavailableError, match="the contender cannot run: no such device"):
        worker(DIES).__enter__()


def test_a_process_that_dies_while_asked_is_named_with_its_last_message() -> None:
    with (
        worker(DIES_LATER) as running,
        pytest.raises(BackendUnavailableError, match="out of memory"),
    ):
        running.ask(seconds=1)
