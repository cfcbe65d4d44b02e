"""ONNX files on the command line: what is said about one once is kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.cli.app import run
from resnet_edge.export.foreign import model as foreign_model
from tests.conftest import require
from tests.export.foreign.models import legacy_export, numbers, plain, tiny_network

if TYPE_CHECKING:
    from pathlib import Path

require("onnxruntime")
require("onnxsim")
HEAD = "c = Conv(x, w) r = Relu(c) m = GlobalAveragePool(r) f = Flatten(m) y = Gemm(f, fc)"
MEAN, STD = "0.1,0.2,0.3", "0.5,0.6,0.7"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_preprocessing_given_once_is_kept_by_later_commands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shipped_images: Path
) -> None:
    onnx.save(legacy_export(tiny_network(), 13), "m.onnx")
    data = shipped_images / "calibration"
    flags = ("--mean", MEAN, "--std", STD)
    assert call(capsys, "calibrate", "m.onnx", "--data", data, "--recipe", "mse", *flags)[0] == 0
    folder = tmp_path / "engines" / "builds" / "m"
    recorded = Bundle.open(folder).model.image_spec
    assert (recorded.mean, recorded.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    code, built = call(capsys, "build", "m.onnx", "--int8", "--target", "cpu")
    assert (code, built["precision"]) == (0, "int8")  # still calibrated
    assert Bundle.open(folder).model.image_spec == recorded
    assert call(capsys, "build", "m.onnx", "--int8", "--target", "cpu", *flags)[1]["cached"]
    code, value = call(capsys, "build", "m.onnx", "--target", "cpu", "--mean", "0,0,0")
    assert (code, value["error"]["type"]) == (1, "ConfigError")
    assert "mean [0.1, 0.2, 0.3] against [0.0, 0.0, 0.0]" in value["error"]["message"]
    assert "std" not in value["error"]["message"].rpartition(":")[2]
    assert "resnet-edge export m.onnx" in value["error"]["hint"]
    assert call(capsys, "export", "m.onnx", "--mean", "0,0,0", "--std", STD)[0] == 0  # the way out
    assert Bundle.open(folder).model.image_spec.mean == (0, 0, 0)
    code, value = call(capsys, "build", "m.onnx", "--int8", "--target", "cpu")
    assert (code, value["error"]["type"]) == (1, "CalibrationError")  # made for the other


def test_a_command_reads_an_onnx_file_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(legacy_export(tiny_network(), 13), "m.onnx")
    loads, hashed = [], []
    real_load, real_hashes = onnx.load, foreign_model._file_hashes

    def load(path: Any, *args: Any, load_external_data: bool = True, **options: Any) -> Any:
        # Without external data only its whereabouts are looked up, for the hashes.
        if load_external_data and getattr(path, "name", "") == "m.onnx":
            loads.append(path)
        return real_load(path, *args, load_external_data=load_external_data, **options)

    monkeypatch.setattr(onnx, "load", load)
    monkeypatch.setattr(
        foreign_model, "_file_hashes", lambda path: hashed.append(path) or real_hashes(path)
    )
    build = ("build", "m.onnx", "--target", "cpu")
    flags = ("--mean", MEAN, "--std", STD)
    for arguments in (
        (*build, *flags),  # brings it into a bundle
        (*build, *flags),  # finds that bundle
        build,
        ("export", "m.onnx", *flags),
        ("export", "m.onnx", "-o", "b"),
    ):
        loads.clear()
        hashed.clear()
        assert call(capsys, *arguments)[0] == 0
        assert (len(loads), len(hashed)) == (1, 1), arguments


def test_another_file_of_the_same_name_starts_anew(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    onnx.save(legacy_export(tiny_network(), 13), "m.onnx")
    folder = tmp_path / "engines" / "builds" / "m"
    assert call(capsys, "build", "m.onnx", "--target", "cpu", "--mean", MEAN)[0] == 0
    onnx.save(legacy_export(tiny_network("option-a"), 13), "m.onnx")
    assert call(capsys, "build", "m.onnx", "--target", "cpu", "--mean", "0,0,0")[0] == 0
    assert Bundle.open(folder).model.image_spec.mean == (0, 0, 0)


def test_export_takes_what_can_be_said_about_an_onnx_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = plain(f"{HEAD} z = Gemm(f, fc2)", fc2=numbers(8, 5, seed=1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["n", 5]))
    onnx.save(model, "two.onnx")
    code, value = call(capsys, "export", "two.onnx")
    assert (code, value["error"]["type"]) == (1, "GraphError")
    assert "--output-name" in value["error"]["hint"]
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    code, value = call(
        capsys, "export", "two.onnx", "-o", "chosen", "--output-name", "z", "--no-simplify",
        "--class-names", "names.txt",
    )  # fmt: skip
    assert code == 0
    assert (value["architecture"], value["parity"]["accepted"]) == ("onnx", True)
    bundle = Bundle.open(tmp_path / "chosen")
    assert bundle.model.labels == tuple("abcde")
    config = bundle.entry("model.onnx").config
    assert (config["output"], config["simplify"]) == ("z", False)
    assert call(capsys, "export", "two.onnx", "--output-name", "z")[0] == 0
    assert call(capsys, "build", "two.onnx", "--target", "cpu")[0] == 0  # knows which output


def test_the_images_an_onnx_file_was_exported_with_stay_its_golden_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, easy_images: Path
) -> None:
    model = plain(HEAD, ("N", 1, 28, 28), w=numbers(8, 1, 3, 3), fc=numbers(8, 2))
    onnx.save(model, "m.onnx")
    assert call(capsys, "export", "m.onnx", "--data", easy_images)[0] == 0
    folder = tmp_path / "engines" / "builds" / "m"
    before = (folder / "reference.npz").read_bytes()
    assert call(capsys, "build", "m.onnx", "--target", "cpu")[0] == 0
    assert (folder / "reference.npz").read_bytes() == before
    code, value = call(capsys, "verify", "m.onnx", "--max-drop", 5)
    assert (code, value["n"], value["data"]) == (0, 64, str(easy_images))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["m.onnx", "--arch", "resnet18"], "--arch"),
        (["m.onnx", "--input", "uint8"], "--input"),
        (["m.onnx", "--class-names", "missing.txt"], "missing.txt"),
        (["m.pt", "--output-name", "y"], "--output-name"),
        (["m.pt", "--class-names", "m.onnx"], "--class-names"),
    ],
)
def test_options_of_the_other_kind_of_file_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], named: str
) -> None:
    onnx.save(plain(HEAD), "m.onnx")
    code, value = call(capsys, "export", *arguments)
    assert code == 1
    assert named in value["error"]["message"]
    assert not (tmp_path / "engines").exists()
