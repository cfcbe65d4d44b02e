"""The commands one after another, as a user types them, and what --json promises."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.catalog.shipped import CHECKPOINT, find
from resnet_edge.cli.app import run
from resnet_edge.images.opening import open_images
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT_FILE = str(find(CHECKPOINT))


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run a command with --json; stdout must be exactly one JSON object."""
    code = run([*map(str, arguments), "--json"])
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return code, value


def test_checkpoint_to_verified_int8_engine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shipped_images: Path
) -> None:
    require("tensorrt_rtx")
    bundle = tmp_path / "bundle"
    code, exported = call(capsys, "export", CHECKPOINT_FILE, "-o", bundle)
    assert code == 0
    assert exported["parity"]["accepted"]

    code, built = call(
        capsys, "build", bundle, "--int8", "--data", shipped_images / "calibration",
        "--target", "rtx-4090",
    )  # fmt: skip
    assert code == 0
    expected = {"engine", "sidecar", "backend", "target", "precision", "rest", "bytes", "seconds"}
    assert expected <= set(built)
    assert (built["precision"], built["rest"], built["target"]) == ("int8", "fp16", "rtx-4090")

    code, verified = call(capsys, "verify", bundle, "--max-drop", "0.5")
    assert code == 0
    assert verified["n"] == 10_000
    assert verified["reference"]["top1"] >= 93.0
    assert verified["candidate"]["precision"] == "int8"
    assert verified["executed"] == "graph"
    assert verified["drop_points"] <= 0.5
    assert verified["drop_points"] == pytest.approx(
        verified["reference"]["top1"] - verified["candidate"]["top1"]
    )
    low, high = verified["drop_ci95"]
    assert low <= verified["drop_points"] <= verified["drop_upper95"] <= high
    assert (verified["outcome"], verified["passed"]) == ("pass", True)


def test_bench_reports_every_contender(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path
) -> None:
    assert call(capsys, "build", bundle_copy, "--int8", "--target", "cpu")[0] == 0
    code, value = call(
        capsys, "bench", bundle_copy, "--duration", 0, "--iterations", 8, "--warm-up", 0,
        "--batch", "1,4",
    )  # fmt: skip
    assert code == 0
    assert len(value["results"]) == 6
    keys = {"backend", "precision", "batch", "n", "latency_ms", "throughput_ips"}
    assert all(keys <= set(r) for r in value["results"])
    assert value["machine"]["cpu"]


def test_a_missed_gate_is_exit_code_3_with_a_full_result(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "one").mkdir()
    Image.new("L", (28, 28), 90).save(tmp_path / "one" / "a.png")
    code, value = call(capsys, "verify", bundle_copy, "--data", tmp_path / "one")
    assert code == 3
    assert value["outcome"] == "inconclusive"
    assert value["needed_n"] > 1


def test_inspect_says_what_everything_is(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path
) -> None:
    _, checkpoint = call(capsys, "inspect", CHECKPOINT_FILE)
    assert checkpoint["kind"] == "checkpoint"
    assert checkpoint["architecture"] == "resnet20"
    assert checkpoint["num_classes"] == 10
    assert checkpoint["parameters"] == 269_434
    assert checkpoint["macs"] == 30_821_248
    assert checkpoint["image_spec"]["color"] == "gray"
    assert {"source_format", "notes"} <= set(checkpoint)
    assert call(capsys, "inspect", bundle_copy)[1]["kind"] == "bundle"
    assert call(capsys, "inspect", bundle_copy / "model.onnx")[1]["opset"] == 17
    built = call(capsys, "build", bundle_copy, "--int8", "--target", "cpu")[1]
    engine = call(capsys, "inspect", built["engine"])[1]
    assert (engine["kind"], engine["precision"]) == ("engine", "int8")


def test_calibrate_and_quantize_say_what_they_made(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path, shipped_images: Path
) -> None:
    code, calibrated = call(
        capsys, "calibrate", bundle_copy, "--data", shipped_images / "calibration",
        "--recipe", "entropy",
    )  # fmt: skip
    assert code == 0
    assert calibrated["images"] == 512
    assert all(amax > 0 for amax in calibrated["tensors"].values())
    code, quantized = call(
        capsys, "quantize", bundle_copy, "--graph", "int8-fp16", "--recipe", "entropy"
    )
    assert code == 0
    assert quantized["opset"] >= 19


@pytest.mark.parametrize("command", ["calibrate", "quantize"])
def test_a_flat_folder_with_a_labels_file_gives_the_bake_off_a_top1(
    capsys: pytest.CaptureFixture[str],
    bundle_copy: Path,
    shipped_images: Path,
    tmp_path: Path,
    command: str,
) -> None:
    source, folder = open_images(shipped_images / "calibration"), tmp_path / "flat"
    assert source.labels is not None
    folder.mkdir()
    rows = [f"{i}.png,{source.labels[i]}" for i in range(40)]
    for i in range(40):
        source.load(i).save(folder / f"{i}.png")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    code, _ = call(
        capsys, command, bundle_copy, "--data", folder, "--labels", tmp_path / "labels.csv"
    )
    assert code == 0
    trials = json.loads((bundle_copy / "calibration.json").read_text())["trials"]
    assert all(trial["top1"] > 50 for trial in trials)


@pytest.mark.parametrize("command", ["recipes", "targets"])
def test_lists_are_json_too(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, value = call(capsys, command)
    assert code == 0
    assert len(value[command]) >= 4


def test_the_human_output_names_the_result(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path
) -> None:
    assert run(["build", str(bundle_copy), "--int8", "--target", "cpu"]) == 0
    assert run(["verify", str(bundle_copy), "--max-drop", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert "model.int8.onnx" in shown
    assert "proven" in shown


BAD = [
    (["export", "missing.pt"], "CheckpointError"),
    (["verify", "missing"], "BundleError"),
    (["build", "BUNDLE", "--int8", "--target", "toaster"], "ConfigError"),
    (["build", "BUNDLE", "--data", "."], "ConfigError"),
    (["build", "BUNDLE", "--int8", "--data", "missing"], "DataError"),
    (["build", "BUNDLE", "--fp16", "--target", "cpu"], "ConfigError"),
    (["build", "BUNDLE", "--int8", "--profile", "1,2"], "ConfigError"),
    (["build", "BUNDLE", "--int8", "--profile", "many"], "ConfigError"),
    (["calibrate", "BUNDLE", "--data", "missing"], "DataError"),
    (["calibrate", "BUNDLE", "--random", "4", "--labels", "x.csv"], "ConfigError"),
    (["quantize", "BUNDLE", "--graph", "int2"], "ConfigError"),
    (["quantize", "BUNDLE", "--labels", "x.csv"], "ConfigError"),
    (["quantize", "BUNDLE", "--recipe", "mse"], "ConfigError"),
    (["quantize", "BUNDLE", "--recipe", "mse", "--max-drop", "1", "--data", "x"], "ConfigError"),
    (["sensitivity", "BUNDLE", "--data", "x", "--plot", "x.xyz"], "ConfigError"),
    (["verify", "BUNDLE", "--labels", "x.csv"], "ConfigError"),
    (["inspect", "missing"], "ResnetEdgeError"),
    (["bench", "BUNDLE", "--batch", "0"], "ConfigError"),
]


@pytest.mark.parametrize(("arguments", "kind"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_mistakes_are_explained_in_one_line(
    capsys: pytest.CaptureFixture[str],
    flow_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [str(flow_bundle) if a == "BUNDLE" else a for a in arguments]
    code, value = call(capsys, *arguments)
    assert code == 1
    assert value["error"]["type"] == kind
    assert "\n" not in value["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_the_first_and_last_layer_stay_in_float_in_the_engine_too(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path
) -> None:
    from resnet_edge.graph.onnx_model import load_graph

    assert call(capsys, "quantize", bundle_copy, "--keep-first-last")[0] == 0
    code, _ = call(capsys, "build", bundle_copy, "--int8", "--target", "cpu")
    assert code == 0
    nodes = {n.name: n for n in load_graph(bundle_copy / "model.int8-cpu.onnx").graph.node}
    quantized = {name for name, n in nodes.items() if len(n.input) > 1 and "deq" in n.input[1]}
    assert not {"conv1", "fc"} & quantized
    assert "layer1.0.conv1" in quantized


def test_layers_named_in_trtexecs_words_stay_in_float(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path, tmp_path: Path
) -> None:
    from resnet_edge.graph.onnx_model import load_graph

    def in_float() -> set[str]:
        nodes = load_graph(bundle_copy / "model.int8.onnx").graph.node
        layers = [n for n in nodes if n.op_type in ("Conv", "Gemm")]
        return {n.name for n in layers if not n.input[1].endswith("_dequantized")}

    spec = "layer1.*:fp16,layer1.0.conv2:int8,'fc':fp32"
    expected = {f"layer1.{i}.conv{k}" for i in range(3) for k in (1, 2)} - {"layer1.0.conv2"}
    code, found = call(capsys, "quantize", bundle_copy, "--layer-precisions", spec)
    assert code == 0
    assert in_float() == expected | {"fc"}
    (tmp_path / "precisions.txt").write_text(found["layer_precisions"] + "\n")
    assert call(capsys, "quantize", bundle_copy, "--layer-precisions", "*:int8")[0] == 0
    assert in_float() == set()
    code, again = call(
        capsys, "quantize", bundle_copy, "--layer-precisions", tmp_path / "precisions.txt"
    )
    assert (code, again["layer_precisions"]) == (0, found["layer_precisions"])
    assert in_float() == expected | {"fc"}
    assert run(["quantize", str(bundle_copy)]) == 0
    assert f"--layerPrecisions={found['layer_precisions']}" in capsys.readouterr().out
    for bad, named in (
        ("conv7:fp16", "no layer conv7"), ("nothing.*:fp16", "no layer nothing"),
        ("fc:bf16", "Gemm fc cannot be bf16"), ("missing.txt", "missing.txt"), ("fc:", "fc"),
    ):  # fmt: skip
        code, value = call(capsys, "quantize", bundle_copy, "--layer-precisions", bad)
        assert (code, value["error"]["type"]) == (1, "ConfigError")
        assert named in value["error"]["message"]
    code, value = call(
        capsys, "quantize", bundle_copy, "--layer-precisions", spec, "--keep-first-last"
    )
    assert (code, value["error"]["type"]) == (1, "ConfigError")
    assert in_float() == expected | {"fc"}


def test_a_quantized_onnx_file_is_refused_with_what_to_do_with_it(
    capsys: pytest.CaptureFixture[str],
    bundle_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "quantize", bundle_copy)[0] == 0
    quantized = bundle_copy / "model.int8.onnx"
    code, value = call(capsys, "build", quantized, "--int8", "--target", "cpu")
    assert (code, value["error"]["type"]) == (1, "GraphError")
    assert f"--from-qdq {quantized}" in value["error"]["hint"]
    assert not (tmp_path / "engines").exists()
    code, _ = call(capsys, "calibrate", bundle_copy / "model.onnx", "--from-qdq", quantized)
    assert code == 0
    assert (
        call(capsys, "build", bundle_copy / "model.onnx", "--int8", "--target", "rtx-4090")[0] == 0
    )


def test_an_onnx_file_goes_through_the_same_commands(
    capsys: pytest.CaptureFixture[str],
    flow_bundle: Path,
    shipped_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copy(flow_bundle / "model.onnx", tmp_path / "mine.onnx")
    images = shipped_images / "calibration"
    code, built = call(capsys, "build", "mine.onnx", "--int8", "--target", "cpu", "--data", images)
    assert code == 0
    assert built["engine"].startswith("engines/builds/mine/")
    assert call(capsys, "verify", "mine.onnx", "--max-drop", "5")[0] == 0
    code, measured = call(
        capsys, "bench", "mine.onnx", "--duration", 0, "--iterations", 4, "--warm-up", 0
    )
    assert [r["backend"] for r in measured["results"]] == ["onnxruntime", "onnxruntime"]
    assert call(capsys, "build", "engines/builds/mine", "--mean", "0.1")[0] == 1


def test_a_budget_and_a_ranking_are_printed_and_stored(
    capsys: pytest.CaptureFixture[str], bundle_copy: Path, shipped_images: Path
) -> None:
    from resnet_edge.images.arrays import ArrayImages
    from resnet_edge.images.idx import write_idx
    from resnet_edge.images.opening import open_images

    source = open_images(shipped_images / "test")
    assert isinstance(source, ArrayImages)
    assert source.labels is not None
    few = bundle_copy.parent / "few"
    write_idx(few / "images-idx3-ubyte.gz", source.pixels[:1500])
    write_idx(few / "labels-idx1-ubyte.gz", source.labels[:1500].astype("u1"))
    code, value = call(capsys, "quantize", bundle_copy, "--data", few, "--max-drop", 5)
    assert code == 0
    assert value["passed"]
    assert value["keep_float"] == []
    assert value["proof"]["outcome"] == "pass"
    code, ranked = call(capsys, "sensitivity", bundle_copy, "--data", few)
    assert code == 0
    kls = [layer["kl"] for layer in ranked["layers"]]
    assert kls == sorted(kls, reverse=True)
    assert (bundle_copy / "reports" / "sensitivity.svg").read_text().startswith("<?xml")
