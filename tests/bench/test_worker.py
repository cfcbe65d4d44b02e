"""What a contender's process does before and while it is measured."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.backends.base import Session
from resnet_edge.bench import worker as module
from resnet_edge.bench.stage import Contender, _worker
from resnet_edge.bench.worker_process import Worker
from resnet_edge.bundle.names import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_edge.bundle.bundle import Bundle


class Clocked(Session):
    """A network whose calls take given times, on a clock that stands still between them."""

    def __init__(self, *milliseconds: float) -> None:
        self.now, self.calls = 0.0, 0
        self._milliseconds = milliseconds

    def perf_counter(self) -> float:
        return self.now

    def run(self, _: Any) -> dict[str, Any]:
        last = len(self._milliseconds) - 1
        self.now += self._milliseconds[min(self.calls, last)] / 1000
        self.calls += 1
        return {}

    def close(self) -> None:
        """Hold nothing."""


def warm_up(session: Clocked, monkeypatch: pytest.MonkeyPatch, at_least: float) -> int:
    monkeypatch.setattr(module, "time", session)
    calls = module._warm_up(session, {}, at_least)
    assert calls == session.calls
    return calls


def test_a_warm_up_goes_on_until_the_median_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    falling = [80.0] * 10 + [40.0] * 10 + [20.0] * 10 + [10.0]
    assert warm_up(Clocked(*falling), monkeypatch, 0.5) == 50


def test_a_warm_up_lasts_as_long_as_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warm_up(Clocked(10.0), monkeypatch, 0.05) == 20  # two windows show that it stands still
    assert warm_up(Clocked(10.0), monkeypatch, 1.95) == 200


def test_a_median_that_never_stands_still_ends_the_warm_up_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slower = [10.0 * 1.1 ** (call // 10) for call in range(400)]
    session = Clocked(*slower)
    warm_up(session, monkeypatch, 0.5)
    assert 10 * 0.5 <= session.now < 11 * 0.5


def test_a_network_is_called_for_a_warm_up_before_it_is_measured(
    exported: Callable[[str], Bundle],
) -> None:
    bundle = exported("tiny")
    contender = Contender("onnxruntime", "fp32", bundle.artifact(MODEL))
    with _worker(bundle.path, contender, 2) as running:
        assert running.ask(warm_up_s=0.0)["calls"] >= 10
        answer = running.ask(seconds=0.0, count=3)
    assert len(answer["ms"]) == 3
    assert answer["parts_ms"] == {}


SELF_TIMED = """
import sys
from resnet_edge.backends.base import SelfTimed, Timings
from resnet_edge.bench import worker
from resnet_edge.tensors import TensorSpec

class Told(SelfTimed):
    inputs = outputs = (TensorSpec("input", (None, 1, 8, 8), "float32"),)
    def run(self, feed):
        raise AssertionError
    def measure(self, feed, *, warm_up, seconds, count):
        return Timings((warm_up, seconds, float(count)))
    def close(self):
        pass

worker._open = lambda bundle, spec: Told()
worker.main()
"""


def test_a_session_that_times_itself_warms_up_in_every_block(
    exported: Callable[[str], Bundle],
) -> None:
    job = json.dumps({"bundle": str(exported("tiny").path), "batch": 1})
    with Worker("told", [sys.executable, "-c", SELF_TIMED, job]) as running:
        assert running.ask(warm_up_s=0.25)["calls"] == 0
        blocks = [running.ask(seconds=1.5, count=n)["ms"] for n in (7, 8)]
    assert blocks == [[0.25, 1.5, 7], [0.25, 1.5, 8]]
