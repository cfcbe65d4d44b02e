from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.cli.app import run
from tests.conftest import require
from tests.images.test_cifar import records

require("torch")
require("safetensors")
require("matplotlib")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUDGET = ["--epochs", "1", "--epoch-images", "128", "--seeds", "1", "--device", "cpu"]
SMALL = ["--width", "0.25", "--size", "8", *BUDGET]


@pytest.fixture
def json_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json and return its exit code and what it printed."""

    def call(*words: object) -> tuple[int, Any]:
        code = run([*map(str, words), "--json", "--quiet"])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_degradation_and_responses_write_curves_plots_and_json(
    tmp_path: Path, easy_images: Path, json_of: Callable[..., Any]
) -> None:
    output = tmp_path / "run"
    data = ("--data", easy_images)
    code, result = json_of(
        "experiment", "degradation", *data, "--depths", "20", *SMALL, "-o", output
    )
    assert code == 0
    assert [c["network"] for c in result["curves"]] == ["plain20-w0.25", "resnet20-w0.25"]
    assert result["recipe"]["epoch_images"] == 128
    written = json.loads((output / "curves.json").read_text())
    assert written.items() <= result.items()
    assert (output / "curves.svg").exists()
    code, result = json_of("experiment", "responses", output, *data, "--images", 16)
    assert code == 0
    assert [len(n["layers"]) for n in result["networks"]] == [19, 19]
    assert json.loads((output / "responses.json").read_text()) == result
    assert (output / "responses.svg").exists()


def test_shortcuts_trains_all_three_options(
    tmp_path: Path, easy_images: Path, json_of: Callable[..., Any]
) -> None:
    output = tmp_path / "run"
    code, result = json_of("experiment", "shortcuts", "--data", easy_images, *SMALL, "-o", output)
    assert code == 0
    assert [c["network"] for c in result["curves"]] == [
        f"resnet20-{option}-w0.25" for option in "ABC"
    ]
    parameters = [c["parameters"] for c in result["curves"]]
    assert parameters == sorted(set(parameters))


def test_the_summary_is_a_table(
    tmp_path: Path, easy_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment", "degradation", "--data", str(easy_images), "--depths", "20", *SMALL]
    assert run([*words, "-o", str(tmp_path / "run"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "| plain20-w0.25 |" in out
    assert "training error %" in out


def test_cifar_10_is_accepted(tmp_path: Path, json_of: Callable[..., Any]) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(records(128).tobytes())
    (folder / "test_batch.bin").write_bytes(records(16, seed=1).tobytes())
    words = ("experiment", "degradation", "--data", folder, "--depths", "20", *SMALL)
    code, result = json_of(*words, "-o", tmp_path / "run")
    assert code == 0
    assert result["data"]["train_images"] == 128
    assert result["data"]["image_spec"]["color"] == "rgb"


def error_of(result: tuple[int, Any], code: int = 1) -> Any:
    assert result[0] == code
    return result[1]["error"]


def test_an_unknown_depth_is_refused_before_anything_is_trained(
    tmp_path: Path, easy_images: Path, json_of: Callable[..., Any]
) -> None:
    words = ("experiment", "degradation", "--data", easy_images, "--depths", "20,21", *SMALL)
    error = error_of(json_of(*words, "-o", tmp_path / "run"))
    assert "plain21" in error["message"]
    assert not (tmp_path / "run").exists()


def test_shortcuts_of_a_plain_network_are_refused(
    tmp_path: Path, easy_images: Path, json_of: Callable[..., Any]
) -> None:
    words = ("experiment", "shortcuts", "--data", easy_images, "--arch", "plain20", *SMALL)
    error = error_of(json_of(*words, "-o", tmp_path / "run"))
    assert (error["message"], error["hint"]) == ("plain20 has no shortcuts", "choose resnet20")


def test_data_without_a_test_part_is_refused(
    tmp_path: Path, easy_images: Path, json_of: Callable[..., Any]
) -> None:
    for part in ("images-idx3", "labels-idx1"):
        name = f"train-{part}-ubyte.gz"
        shutil.copy(easy_images / name, tmp_path / name)
    error = error_of(json_of("experiment", "degradation", "--data", tmp_path, *SMALL))
    assert "no test part" in error["message"]


def test_missing_fashion_mnist_says_where_to_get_it(
    tmp_path: Path, json_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_edge.cli import experiment

    missing = tmp_path / "nowhere"
    monkeypatch.setattr(experiment, "_DATA", missing)
    error = error_of(json_of("experiment", "degradation", "--data", missing, *SMALL))
    assert "dataset-fashion-mnist" in error["hint"]


def test_responses_of_something_else_are_refused(
    tmp_path: Path, easy_images: Path, json_of: Callable[..., Any]
) -> None:
    error = error_of(json_of("experiment", "responses", tmp_path, "--data", easy_images))
    assert "curves.json" in error["message"]
    (tmp_path / "curves.json").write_text('{"curves": [{"network": 1}]}')
    error = error_of(json_of("experiment", "responses", tmp_path, "--data", easy_images))
    assert "does not hold the curves" in error["message"]
