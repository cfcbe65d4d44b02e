from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

import resnet_edge
from resnet_edge.cli.app import app, run
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAVY = {
    "numpy", "torch", "onnx", "onnxruntime", "onnxsim", "tensorrt", "tensorrt_rtx", "PIL",
    "matplotlib", "rich", "safetensors",
}  # fmt: skip


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield words and command of everything that can be run, subcommands included."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def loaded_after(statements: str, cwd: Path) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after the statements."""
    program = (
        f"{statements}\nimport sys; print('\\n', *{{m.partition('.')[0] for m in sys.modules}})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(resnet_edge.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return HEAVY & set(result.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_after("import resnet_edge, resnet_edge.errors", tmp_path) == set()


def test_help_of_the_app_loads_nothing_heavy_but_rich(tmp_path: Path) -> None:
    statements = "from resnet_edge.cli.app import run\nassert run(['--help']) == 0"
    assert loaded_after(statements, tmp_path) <= {"rich"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_of_a_command_loads_nothing_heavy_but_rich(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    arguments = [*words, "--help"]
    statements = f"from resnet_edge.cli.app import run\nassert run({arguments!r}) == 0"
    assert loaded_after(statements, tmp_path) <= {"rich"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_describes_itself_and_has_the_common_options(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert command.help
    if not hasattr(command, "commands"):
        options = {option for parameter in command.params for option in parameter.opts}
        assert options >= {"--json", "--quiet", "--debug"}


def test_version_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr() == (f"resnet-edge {resnet_edge.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["train", "-h"]])
def test_help_goes_to_stdout(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert "Usage" in out
    assert err == ""


USAGE = [
    ["--no-such-option"],
    ["no-such-command"],
    ["train"],
    ["train", "data", "--no-such-option"],
    ["train", "data", "--epochs", "many"],
    ["train", "data", "--epochs", "0"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_a_wrong_command_line_exits_2_and_keeps_stdout_empty(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", USAGE[1:], ids=" ".join)
def test_a_wrong_command_line_is_json_on_request(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "UsageError"
    assert error["message"]


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "train" in "".join(capsys.readouterr())


def test_a_missing_data_directory_exits_1_with_one_line_and_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(tmp_path / "none")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    message, hint = err.splitlines()
    assert message == f"error: no such image directory: {tmp_path / 'none'}"
    assert hint.startswith("  hint: ")


def test_an_option_value_that_makes_no_sense_exits_1_with_a_hint(
    easy_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(easy_images), "--mean", "0.5;0.5"]) == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "error: '0.5;0.5' is not a comma-separated list of numbers"
    assert "--mean" in hint


def test_an_error_is_one_json_object_on_stdout_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(tmp_path / "none"), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {
            "type": "DataError",
            "message": f"no such image directory: {tmp_path / 'none'}",
            "hint": "check the path given to --data",
        }
    }
    assert err == ""


def test_the_traceback_of_our_error_is_shown_only_with_debug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(tmp_path / "none"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (PermissionError(13, "Permission denied", "x"), 1, "PermissionError"),
    ],
)
def test_an_interrupt_exits_130_and_a_file_system_error_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    kind: str,
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr("resnet_edge.images.opening.open_images", fail)
    assert run(["train", "data", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["error"]["type"] == kind


def test_a_training_run_prints_one_json_object_and_nothing_else(
    tmp_path: Path, easy_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require("torch")
    require("safetensors")
    arguments = ["train", str(easy_images), "-o", str(tmp_path / "run"), "--epochs", "1"]
    assert run([*arguments, "--size", "8", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["checkpoint"] == str(tmp_path / "run" / "checkpoint.safetensors")
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    assert 0 <= result["test_top1"] <= 100
    assert result["excluded"] == 0
    assert err == ""
