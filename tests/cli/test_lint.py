from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from resnet_edge.cli.app import run
from resnet_edge.lint.check import lint
from tests.quantize.graphs import BIAS, pair, residual, sound
from tests.quantize.graphs import run as compute

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto


def uint8() -> ModelProto:
    """Rejected by every TensorRT, and repairable."""
    constants = {"xz": np.uint8(128)}
    return sound(activation=pair("x", "xd", "xs", "xz"), constants=constants)


def asymmetric() -> ModelProto:
    """Rejected by every TensorRT, and not repairable."""
    return sound(activation=pair("x", "xd", "xs", "xz"), constants={"xz": np.int8(3)})


def saved(network: ModelProto, folder: Path) -> str:
    path = folder / "model.onnx"
    onnx.save(network, path)
    return str(path)


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_sound_graph_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", saved(sound(), tmp_path), "--json"]) == 0
    assert result(capsys) == {"findings": [], "fixed": 0, "output": None}
    assert run(["lint", saved(sound(), tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to object to\n"


def test_an_error_exits_3_and_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lint", saved(asymmetric(), tmp_path), "--json"]) == 3
    found = result(capsys)
    assert (found["fixed"], found["output"]) == (0, None)
    [finding] = found["findings"]
    assert set(finding) == {"rule", "severity", "node", "message", "fix", "flavours", "fixable"}
    assert finding["rule"] == "zero-point-nonzero"
    assert finding["node"] == "xd_Q"
    assert finding["flavours"] == ["8.5", "8.6", "10-weak", "strong", "rtx"]


def test_what_is_only_slow_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", saved(residual(quantize_skip=False), tmp_path), "--json"]) == 0
    assert [f["severity"] for f in result(capsys)["findings"]] == ["slow"]


def test_people_get_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = sound(activation=pair("x", "xd", "xs", None), constants={"b": BIAS})
    assert run(["lint", saved(network, tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert err == ""
    for expected in ("zero-point-missing", "xd_Q", "xd_DQ", "(--fix)", "8.6", "2 error"):
        assert expected in out


def test_fix_writes_a_repaired_copy_beside_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(uint8(), tmp_path)
    before = (tmp_path / "model.onnx").read_bytes()
    assert run(["lint", path, "--fix", "--json"]) == 0
    written = tmp_path / "model.fixed.onnx"
    assert result(capsys) == {"findings": [], "fixed": 1, "output": str(written)}
    assert (tmp_path / "model.onnx").read_bytes() == before
    fixed = onnx.load(written)
    assert lint(fixed) == ()
    assert np.array_equal(compute(fixed), compute(uint8()))


def test_fix_says_what_it_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", saved(uint8(), tmp_path), "--fix"]) == 0
    out = capsys.readouterr().out
    assert "1 repaired (zero-point-nonzero ×1): " in out
    assert "nothing to object to" in out


def test_fix_reports_what_is_left_and_writes_nothing_if_nothing_was_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lint", saved(asymmetric(), tmp_path), "--fix", "--json"]) == 3
    found = result(capsys)
    assert (found["fixed"], found["output"], len(found["findings"])) == (0, None, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_named_output_is_always_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out" / "ready.onnx"
    assert run(["lint", saved(sound(), tmp_path), "--fix", "-o", str(target), "--json"]) == 0
    assert result(capsys)["output"] == str(target)
    assert onnx.load(target) == sound()


def test_the_output_may_be_the_input(tmp_path: Path) -> None:
    path = saved(uint8(), tmp_path)
    assert run(["lint", path, "--fix", "-o", path]) == 0
    assert run(["lint", path]) == 0


def test_only_the_named_tensorrt_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(sound(activation=pair("x", "xd", "xs", None)), tmp_path)
    assert run(["lint", path, "--for", "rtx", "--for", "strong", "--json"]) == 0
    assert result(capsys)["findings"] == []
    assert run(["lint", path, "--for", "8.5", "--json"]) == 3
    assert {tuple(f["flavours"]) for f in result(capsys)["findings"]} == {("8.5",)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.onnx"], "--output is for the repaired graph"),
        (["--for", "9"], "--for 9: there is no such TensorRT"),
    ],
)
def test_options_that_make_no_sense_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["lint", saved(sound(), tmp_path), *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert "\n  hint: " in err


def test_what_is_not_onnx_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    assert run(["lint", str(tmp_path / "text.onnx")]) == 1
    assert run(["lint", str(tmp_path / "missing.onnx")]) == 1
    assert capsys.readouterr().out == ""
