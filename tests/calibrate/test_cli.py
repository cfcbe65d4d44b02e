from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.bundle.names import TABLE
from resnet_edge.bundle.ranges_table import RangesTable
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.calibrate.ranges import estimate
from resnet_edge.cli.app import run
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_edge.bundle.bundle import Bundle

require("onnxruntime")


@pytest.fixture
def bundle(exported: Callable[[str], Bundle], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("tiny").path, tmp_path / "bundle"))


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, Any]:
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_random_inputs_need_their_flag_and_say_so_everywhere(
    capsys: pytest.CaptureFixture[str], bundle: Path
) -> None:
    code = run(["calibrate", str(bundle), "--random", "20"])
    printed = capsys.readouterr()
    assert code == 0
    assert "RANDOM INPUTS" in printed.err
    assert "20 RANDOM INPUTS" in printed.out
    code, found = call(capsys, "calibrate", bundle, "--random", "20")
    assert (code, found["random"], found["images"], found["cached"]) == (0, 20, 0, True)
    assert RangesTable.load(bundle / TABLE).random == 20


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "ConfigError"),
        (["--random", "5", "--data", "x"], "ConfigError"),
        (["--data", "x", "--from-cache", "y"], "ConfigError"),
        (["--from-qdq", "x", "--from-cache", "y"], "ConfigError"),
        (["--from-qdq", "x", "--recipe", "mse"], "ConfigError"),
        (["--from-qdq", "missing.onnx"], "FileNotFoundError"),
        (["--data", "missing.npy"], "DataError"),
    ],
)
def test_calibrate_takes_either_images_or_the_flag(
    capsys: pytest.CaptureFixture[str], bundle: Path, arguments: list[str], error: str
) -> None:
    code, found = call(capsys, "calibrate", bundle, *arguments)
    assert (code, found["error"]["type"]) == (1, error)
    assert found["error"]["hint"]
    assert not (bundle / TABLE).exists()


def test_network_inputs_calibrate_but_do_not_verify(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    inputs = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    code = run(["calibrate", str(bundle), "--data", str(tmp_path / "inputs.npy")])
    assert "network inputs to choose on, so the recipe is mse" in capsys.readouterr().err
    assert code == 0
    code, found = call(capsys, "calibrate", bundle, "--data", tmp_path / "inputs.npy")
    assert (code, found["images"], found["random"], found["warnings"]) == (0, 20, 0, [])
    counted = Histogram()
    counted.update(inputs)
    assert found["tensors"]["input"] == pytest.approx(estimate(counted, "mse"), rel=1e-6)
    code, found = call(capsys, "verify", bundle, "--data", tmp_path / "inputs.npy")
    assert (code, found["error"]["type"]) == (1, "DataError")
    assert "golden reference" in found["error"]["message"]


def test_images_of_an_array_file_calibrate_and_verify(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for part in ("calibration", "test"):
        pixels = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
        np.savez(tmp_path / part, images=pixels, labels=rng.integers(0, 10, 40))
    code, found = call(
        capsys, "calibrate", bundle, "--data", tmp_path / "calibration.npz", "--recipe", "mse"
    )
    assert (code, found["images"]) == (0, 40)
    code, found = call(
        capsys, "verify", bundle, "--precision", "fp32", "--data", tmp_path / "test.npz",
        "--max-drop", "50",
    )  # fmt: skip
    assert code == 0
    assert found["n"] == 40
    assert found["drop_points"] == 0
    code, found = call(
        capsys, "verify", bundle, "--precision", "fp32", "--data", tmp_path / "calibration.npz"
    )
    assert (code, found["error"]["type"]) == (1, "DataError")
    assert "used for calibration" in found["error"]["message"]


def test_ranges_are_taken_over_from_a_cache_and_from_a_quantized_model(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    assert call(capsys, "calibrate", other, "--random", "20")[0] == 0
    _, expected = call(capsys, "calibrate", other, "--random", "20")
    assert call(capsys, "quantize", other, "--graph", "int8-cpu")[0] == 0
    for option, file in (
        ("--from-cache", "calibration.cache"),
        ("--from-qdq", "model.int8-cpu.onnx"),
    ):
        code, found = call(capsys, "calibrate", bundle, option, other / file)
        assert (code, found["cached"], found["images"]) == (0, False, 0)
        assert found["tensors"] == pytest.approx(expected["tensors"], rel=1e-6)
        code, found = call(capsys, "calibrate", bundle, option, other / file)
        assert (code, found["cached"]) == (0, True)
        assert run(["calibrate", str(bundle), option, str(other / file)]) == 0
        assert f"ranges of {file}" in capsys.readouterr().out
        assert call(capsys, "build", bundle, "--int8", "--target", "cpu")[0] == 0
    code = run(["calibrate", str(bundle), "--from-cache", str(other / "calibration.cache")])
    assert "unknown: verify on others" in capsys.readouterr().err


def test_a_dead_tensor_is_pointed_out(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "black.npy", np.zeros((20, 1, 8, 8), np.float32))
    assert run(["calibrate", str(bundle), "--data", str(tmp_path / "black.npy")]) == 0
    assert "warning: input: zero throughout" in capsys.readouterr().out
    _, found = call(capsys, "calibrate", bundle, "--data", tmp_path / "black.npy")
    assert "input: zero throughout" in found["warnings"]
