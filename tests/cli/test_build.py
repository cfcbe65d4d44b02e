"""The flags of ``build`` arrive where they belong, and contradictions end the command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.cli.app import run
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.backends.config import BuildConfig


class Asked(Exception):  # noqa: N818
    """Ends the command with what the stage was asked for."""

    def __init__(self, config: BuildConfig, images: Any) -> None:
        super().__init__()
        self.config, self.images = config, images


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, bundle_copy: Path) -> Any:
    """Run ``build`` with flags and return the configuration and images it asked for."""

    def build(bundle: Any, target: Any, config: BuildConfig, **rest: Any) -> None:
        raise Asked(config, rest["images"])

    def asked(*flags: object) -> Asked:
        monkeypatch.setattr("resnet_edge.build.stage.build", build)
        monkeypatch.setattr("resnet_edge.build.stage.check_build", lambda *_: None)
        with pytest.raises(Asked) as caught:
            run(["build", str(bundle_copy), "--target", "cpu", "--debug", *map(str, flags)])
        return caught.value

    return asked


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("", {}),
        ("--strongly-typed", {"strongly_typed": True}),
        ("--int8 --implicit", {"implicit": "ranges"}),
        ("--int8 --implicit --calibrator minmax", {"implicit": "minmax"}),
        ("--fp16 --dla 1", {"dla": 1}),
        ("--int8 --dla 0", {"dla": 0, "implicit": "ranges"}),
        ("--compute-capability 8.6,8.9", {"compute_capabilities": ["8.6", "8.9"]}),
        ("--workspace 256", {"workspace": 256}),
        ("--optimization-level 5", {"optimization_level": 5}),
        ("--builds 3", {"builds": 3}),
        ("--version-compatible", {"version_compatible": True}),
        ("--hardware-compatible", {"hardware_compatible": True}),
        ("--sparsity", {"sparsity": True}),
        ("--timing-cache", {}),
        ("--int8 --reduce-range", {"reduce_range": True}),
        ("--no-timing-cache", {"timing_cache": False}),
    ],
)
def test_a_flag_becomes_its_setting(ask: Any, flags: str, settings: dict[str, Any]) -> None:
    assert ask(*flags.split()).config.settings == settings


def test_images_for_tensorrts_own_calibration_are_not_calibrated_on_by_us(
    ask: Any, bundle_copy: Path, shipped_images: Path
) -> None:
    before = (bundle_copy / "calibration.json").read_bytes()
    data = shipped_images / "test"
    asked = ask("--int8", "--implicit", "--calibrator", "entropy", "--data", data)
    assert len(asked.images) == 10_000
    assert (bundle_copy / "calibration.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--fp16 --implicit", "--int8"),
        ("--int8 --calibrator entropy", "--implicit"),
        ("--int8 --implicit --strongly-typed", "leave out one"),
        ("--fp16 --builds 2 --target rtx-4090", "leave it out"),
    ],
)
def test_contradictions_end_the_command_with_a_hint(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str], flags: str, words: str
) -> None:
    require("tensorrt_rtx")
    code = run(["build", str(bundle_copy), "--target", "cpu", *flags.split(), "--json"])
    assert code == 1
    assert words in json.loads(capsys.readouterr().out)["error"]["hint"]
    assert not (bundle_copy / "engines").exists()


def test_what_the_target_cannot_do_is_refused_before_it_is_calibrated_for(
    bundle_copy: Path, shipped_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in bundle_copy.iterdir()}
    flags = ["--int8", "--target", "jetson-nano", "--data", str(shipped_images / "test"), "--json"]
    assert run(["build", str(bundle_copy), *flags]) == 1
    assert "no INT8" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert {path: path.read_bytes() for path in bundle_copy.iterdir()} == before


def test_the_result_says_what_was_asked_for_and_what_to_know(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require("tensorrt_rtx")
    flags = ["--int8", "--target", "rtx-4090", "--compute-capability", "8.6,8.9", "--json"]
    assert run(["build", str(bundle_copy), *flags]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["settings"] == {"compute_capabilities": ["8.6", "8.9"]}
    assert any("experimental" in note for note in value["notes"])
    assert run(["build", str(bundle_copy), *flags[:-1]]) == 0
    assert "experimental" in capsys.readouterr().out
