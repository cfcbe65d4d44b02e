"""build, verify and bench on the command line with an emulated trtexec of every version.

Nothing here ran on NVIDIA hardware: the stand-in accepts what the public sources of that version
accept, and computes its outputs through ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from resnet_edge.bundle.sidecar import read_sidecar
from resnet_edge.cli.app import run
from resnet_edge.images.idx import write_idx
from resnet_edge.images.opening import open_images
from tests.emulation.trtexec.install import VERSIONS, flags_of, install

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_edge.bundle.bundle import Bundle

TARGET = 'description = "emulated"\nbackend = "trtexec"\ncompute_capability = "7.2"\n'


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory, shipped_images: Path) -> Path:
    """The first 16 of the shipped test images."""
    source, folder = open_images(shipped_images / "test"), tmp_path_factory.mktemp("few")
    pixels = np.stack([np.asarray(source.load(i), np.uint8) for i in range(16)])
    write_idx(folder / "t10k-images-idx3-ubyte.gz", pixels)
    assert source.labels is not None
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", source.labels[:16].astype(np.uint8))
    return folder


@pytest.fixture
def place(
    calibrated: Callable[[str], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Make a folder with a bundle, a target and a trtexec, and go there."""

    def make(version: str) -> Path:
        folder = tmp_path / version
        bundle = Path(shutil.copytree(calibrated("tiny").path, folder / "bundle"))
        manifest = json.loads((bundle / "bundle.json").read_text())
        manifest["model"]["source"] = "the checkpoint stayed where PyTorch is"
        (bundle / "bundle.json").write_text(json.dumps(manifest))
        (folder / "device.toml").write_text(TARGET)
        install(folder / "bin", version)
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))  # another machine's
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.chdir(folder)
        return folder

    return make


def output(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0) -> Any:
    assert run([*arguments, "--json", "--quiet"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("version", VERSIONS)
def test_build_verify_bench(
    place: Callable[[str], Path],
    few_images: Path,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    place(version)
    arguments = ["build", "bundle", "--target", "device.toml", "--profile", "1,4,16"]
    built = {
        precision: output(capsys, [*arguments, f"--{precision}"]) for precision in ("fp16", "int8")
    }
    for precision, result in built.items():
        assert (result["backend"], result["precision"]) == ("trtexec", precision)
        assert read_sidecar(Path(result["engine"])).runtime_version == version
    verified = output(
        capsys,
        ["verify", "bundle", "--data", str(few_images), "--max-drop", "60", "--backend", "trtexec"],
    )
    assert verified["executed"] == "engine"
    assert (verified["candidate"]["backend"], verified["candidate"]["precision"]) == (
        "trtexec", "int8",
    )  # fmt: skip
    assert verified["agreement"] > 80

    timed = output(
        capsys, ["bench", "bundle", "--duration", "0", "--iterations", "8", "--warm-up", "0"]
    )["results"]
    found = {(r["backend"], r["precision"]): r for r in timed}
    assert found.keys() == {("onnxruntime", "fp32"), ("trtexec", "fp16"), ("trtexec", "int8")}
    assert found["onnxruntime", "fp32"]["parts_ms"] == {}
    for precision in built:
        result = found["trtexec", precision]
        assert result["n"] >= 8
        parts = result["parts_ms"]
        assert parts.keys() == {"h2d", "compute", "d2h"}
        assert result["latency_ms"]["mean"] == pytest.approx(
            sum(part["mean"] for part in parts.values()), rel=1e-3
        )
        assert 0 < parts["compute"]["p50"] <= result["latency_ms"]["p99"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["--fp16", "--int8"])
def test_the_printed_command_is_what_that_version_takes_and_builds(
    place: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    version: str,
    precision: str,
) -> None:
    folder = place(version)
    (folder / "bundle").rename(folder / "it's a bundle")
    words = ["build", "it's a bundle", precision, "--target", "device.toml"]
    assert run([*words, "--quiet"]) == 0  # makes the graph
    capsys.readouterr()
    assert run([*words, "--print-trtexec", "--quiet"]) == 0
    command = capsys.readouterr().out
    assert "'" in command  # the name needs quotes
    given = {word.partition("=")[0] for word in shlex.split(command)[1:]}
    assert given <= set(flags_of(version)["accepts"])
    (engine,) = (folder / "it's a bundle" / "engines" / "device").glob("*.engine")
    engine.unlink()
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    assert engine.is_file()


@pytest.mark.parametrize("version", ["8.2", "8.5", "8.6", "10.3", "10.13", "11.4"])
def test_the_command_of_another_version_is_printed_and_nothing_is_made(
    place: Callable[[str], Path], capsys: pytest.CaptureFixture[str], version: str
) -> None:
    folder = place("10.3.0")
    before = sorted(folder.rglob("*"))
    found = output(
        capsys,
        ["build", "bundle", "--int8", "--target", "device.toml", f"--print-trtexec={version}"],
    )
    full = next(v for v in VERSIONS if v.startswith(f"{version}."))
    given = {word.partition("=")[0] for word in found["command"][1:]}
    assert given <= set(flags_of(full)["accepts"])
    assert found["missing"] == [found["command"][1].partition("=")[2]]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("version", "number"), [("8.6.1", "8601"), ("10.3", "100300")])
def test_a_printed_command_with_a_cache_says_which_first_line_its_version_takes(
    place: Callable[[str], Path], capsys: pytest.CaptureFixture[str], version: str, number: str
) -> None:
    place("10.3.0")
    words = ["build", "bundle", "--int8", "--implicit", "--target", "device.toml"]
    found = output(capsys, [*words, f"--print-trtexec={version}"])
    assert "--calib=bundle/calibration.cache" in found["command"]
    assert f"TRT-{number}-EntropyCalibration2" in found["notes"][0]
    assert output(capsys, [*words[:3], *words[4:], "--print-trtexec"])["notes"] == []


def test_without_trtexec_the_command_is_the_targets(
    place: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = place("10.3.0")
    monkeypatch.setenv("PATH", str(folder / "none"))
    words = ["build", "bundle", "--fp16", "--print-trtexec", "--target"]
    found = output(capsys, [*words, "jetson-nano"])
    assert found["tensorrt"].startswith("8.2")
    assert "--workspace=512" in found["command"]
    error = output(capsys, [*words, "device.toml"], code=1)["error"]
    assert "not on PATH" in error["message"]
    error = output(capsys, [*words, "cpu"], code=1)["error"]
    assert "does not build for cpu" in error["message"]


@pytest.mark.parametrize(
    ("target", "version", "arguments", "graph"),
    [
        ("jetson-nano", "8.2.1", ["--fp16"], "model-opset13.onnx"),
        ("jetson-xavier-nx", "8.2.1", ["--int8"], "model.int8-opset13.onnx"),
        ("jetson-xavier-nx", "8.2.1", ["--int8", "--implicit"], "model-opset13.onnx"),
        ("jetson-xavier-nx", "8.5.2", ["--int8"], "model.int8.onnx"),
    ],
)
def test_an_old_parser_is_given_its_opset_and_the_answers_stay(
    place: Callable[[str], Path],
    few_images: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    version: str,
    arguments: list[str],
    graph: str,
) -> None:
    folder = place(version)
    words = ["build", "bundle", *arguments, "--target", target]
    printed = output(capsys, [*words, "--print-trtexec"])
    assert printed["command"][1] == f"--onnx=bundle/{graph}"
    assert ("opset13" in graph) == any("opset13" in name for name in printed["missing"])
    built = output(capsys, words)
    sidecar = read_sidecar(Path(built["engine"]))
    assert sidecar.onnx == graph
    model = onnx.load(folder / "bundle" / graph)
    assert model.opset_import[0].version == (13 if "opset13" in graph else 17)
    assert output(capsys, [*words, "--print-trtexec"])["missing"] == []
    verified = output(capsys, ["verify", "bundle", "--data", str(few_images), "--max-drop", "60"])
    assert verified["executed"] == "engine"
    assert verified["agreement"] > 80
    assert output(capsys, words)["cached"]
    timed = output(capsys, ["bench", "bundle", "--duration", "0", "--warm-up", "0"])["results"]
    assert [r["backend"] for r in timed] == ["onnxruntime", "trtexec"]


def test_a_command_line_of_trtexec_builds_and_leaves_the_engine_where_it_says(
    place: Callable[[str], Path], few_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place("8.5.2")
    shutil.copy(folder / "bundle" / "model.onnx", folder / "model.onnx")
    words = shlex.split(
        "build --onnx=model.onnx --saveEngine=out/model.engine --fp16 --workspace=256 "
        "--minShapes=input:1x1x8x8 --optShapes=input:2x1x8x8 --maxShapes=input:4x1x8x8 "
        "--timingCacheFile=t.cache --verbose --buildOnly --target device.toml"
    )
    assert run(words) == 0
    assert "note: --timingCacheFile: kernel timings are kept" in capsys.readouterr().err
    sidecar = read_sidecar(folder / "out" / "model.engine")
    assert (sidecar.precision, sidecar.profile) == ("fp16", (1, 2, 4))
    assert sidecar.settings == {"workspace": 256}
    verified = output(
        capsys,
        ["verify", "engines/builds/model", "--engine", "out/model.engine", "--max-drop", "100",
         "--data", str(few_images)],
    )  # fmt: skip
    assert verified["executed"] == "engine"


def test_a_calibration_cache_serves_builders_that_know_none(
    place: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place("11.4.1")
    shutil.move(folder / "bundle" / "calibration.cache", folder / "old.cache")
    arguments = ["build", "bundle", "--target", "device.toml", "--calib=old.cache"]
    built = output(capsys, [*arguments, "--int8"])
    assert (built["precision"], built["settings"]) == ("int8", {})
    table = json.loads((folder / "bundle" / "calibration.json").read_text())
    assert "old.cache" in json.dumps(table["recipe"])
    assert (
        "--data and --from-cache contradict"
        in output(capsys, [*arguments, "--int8", "--data", "."], code=1)["error"]["message"]
    )
    assert "only INT8" in output(capsys, arguments, code=1)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--best", "--no-fp16"], "--best and --no-fp16 contradict each other"),
        (["--loadEngine=x"], "--loadEngine: build makes engines"),
        (["--builds", "2", "--print-trtexec"], "--builds compares engines"),
        (["--compute-capability", "8.6", "--print-trtexec"], "trtexec cannot honour --compute-"),
    ],
)
def test_a_contradiction_is_one_error_of_ours(
    place: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    place("8.5.2")
    words = ["build", "bundle", "--target", "device.toml", *arguments]
    error = output(capsys, words, code=1)["error"]
    assert (error["type"], error["message"][: len(message)]) == ("ConfigError", message)
