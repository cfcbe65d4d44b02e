"""``targets`` as typed: list, show, copy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from resnet_edge.catalog.targets import list_targets, load_target
from resnet_edge.cli.app import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [["targets"], ["targets", "ls"]])
def test_every_target_is_listed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [t.name for t in list_targets()]
    assert run([*words, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["targets"]
    assert [t["name"] for t in listed] == [t.name for t in list_targets()]


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_every_target_is_shown(target: object, capsys: pytest.CaptureFixture[str]) -> None:
    name = target.name  # type: ignore[attr-defined]
    assert run(["targets", "show", name]) == 0
    assert f"name: {name}\n" in capsys.readouterr().out


def test_everything_about_a_target_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "show", "jetson-orin-nx-16gb"]) == 0
    out = capsys.readouterr().out
    assert "int8_tops: 30.1" in out
    assert "  tensorrt 10.3.0 to 10.7.0, opset_max 20, jetpack 6.1 to 6.2.2, dla True" in out
    assert "power_modes: 0:MAXN, 1:10W, 2:15W, 3:25W" in out
    assert "super_modes: jetpack 6.2, bandwidth_gb_s 102.4" in out
    assert "workspace_bytes: 4294967296" in out
    assert run(["targets", "show", "jetson-orin-nx-16gb", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["super_modes"]["int8_tops"] == 38.4
    assert shown["workspace_bytes"] == 4 << 30


def test_the_automatic_target_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "show", "auto", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backend"]


def test_a_copy_keeps_the_comments_and_can_be_used(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["targets", "copy", "rtx-4090", "mine"]) == 0
    assert "--target mine" in capsys.readouterr().out
    made = elsewhere / "engines" / "targets" / "mine.toml"
    assert "whitepaper" in made.read_text()
    made.write_text(made.read_text().replace("memory_gb = 24", "memory_gb = 12"))
    assert load_target("mine").memory_gb == 12
    assert run(["targets", "copy", "mine", "other/my-gpu.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"target": "other/my-gpu.toml"}
    assert load_target("other/my-gpu.toml").memory_gb == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "nothing"], "named 'nothing'"),
        (["copy", "nothing", "mine"], "named 'nothing'"),
        (["copy", "missing.toml", "mine"], "missing.toml"),
        (["copy", "cpu", "../up"], "no name"),
        (["copy", "cpu", "a b"], "no name"),
        (["copy", "cpu", "there"], "exists already"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = elsewhere / "engines" / "targets" / "there.toml"
    there.parent.mkdir(parents=True)
    there.write_text('description = "x"\nbackend = "onnxruntime"\n')
    assert run(["targets", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in elsewhere.rglob("*.toml")] == ["there.toml"]


def test_a_broken_file_is_not_copied(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "bad.toml").write_text("backend = 1\n")
    assert run(["targets", "copy", "bad.toml", "mine"]) == 1
    assert "bad.toml" in capsys.readouterr().err
