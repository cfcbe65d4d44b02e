"""``doctor`` as typed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from resnet_edge.cli.app import run
from resnet_edge.doctor import examined
from tests.doctor.machines import BARE, H100, ORIN, XAVIER

if TYPE_CHECKING:
    from resnet_edge.doctor.examined import Examined


def pretend(machine: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examined, "look", lambda: machine)


def test_it_prints_findings_fixes_and_what_can_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(XAVIER, monkeypatch)
    assert run(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert "JetPack 5.1.2" in out
    assert "sudo nvpmodel -m 8" in out
    assert "→ sudo jetson_clocks" in out
    assert "usable: trtexec" in out
    assert err == ""


def test_brackets_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(BARE, monkeypatch)
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "resnet-edge[export]" in out
    assert "usable: none" in out


@pytest.mark.parametrize(
    ("machine", "backend", "code"),
    [(ORIN, "tensorrt", 0), (XAVIER, "tensorrt", 1), (BARE, "pytorch", 1), (H100, "pytorch", 0)],
)
def test_a_required_backend_decides_the_exit_code(
    machine: Examined, backend: str, code: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pretend(machine, monkeypatch)
    assert run(["doctor", "--json", "--require", backend]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["backends"][backend]["usable"] == (code == 0)
    assert (f"error: {backend}: " in err) == (code == 1)
    assert ("hint: " in err) == (code == 1)


def test_every_required_backend_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(XAVIER, monkeypatch)
    assert run(["doctor", "--require", "trtexec", "--require", "tensorrt"]) == 1
    assert "error: trtexec" not in capsys.readouterr().err
    assert run(["doctor", "--require", "trtexec"]) == 0


def test_an_unknown_backend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--require", "tensorflow"]) == 1
    assert "tensorrt_rtx" in capsys.readouterr().err


def test_it_runs_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["machine"]["system"]
    assert set(report["backends"]) == {
        "pytorch", "onnxruntime", "tensorrt", "tensorrt_rtx", "trtexec",
    }  # fmt: skip
    assert err == ""
