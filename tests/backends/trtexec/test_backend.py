"""The trtexec backend against a stand-in that computes real outputs (emulated, see its folder)."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.backends.loading import open_engine
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.registry import get_backend
from resnet_edge.backends.trtexec import backend as backend_module
from resnet_edge.backends.trtexec import session as session_module
from resnet_edge.backends.trtexec.process import ProcessResult, run_program
from resnet_edge.backends.trtexec.session import TrtexecSession
from resnet_edge.build.stage import BuildConfig, build, layers_path
from resnet_edge.build.trtexec_equivalent import equivalent_command
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.catalog.targets import Target
from resnet_edge.device.nvidia import Gpu
from resnet_edge.errors import (
    BackendUnavailableError,
    BuildError,
    ConfigError,
    EngineMismatchError,
)
from tests.emulation.trtexec.install import VERSIONS, install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resnet_edge.backends.config import Precision
    from resnet_edge.build.stage import BuildResult

XAVIER = Target("xavier", "", "trtexec", "7.2", dla_cores=2, soc="tegra194", modules=("p2888",))
PROFILE = (2, 4, 8)
GPU = Gpu("Xavier", "8.6", 8 << 30, integrated=True)


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a stand-in of a version, with or without a fault, on PATH."""
    path = os.environ["PATH"]

    def put(version: str, fault: str = "") -> None:
        folder = tmp_path / f"bin-{version}-{fault}"
        install(folder, version, fault)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{path}")

    return put


@pytest.fixture
def bundle(calibrated: Callable[[str], Bundle], tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(calibrated("tiny").path, tmp_path / "bundle")))


def images(bundle: Bundle, count: int) -> dict[str, np.ndarray[Any, Any]]:
    spec = bundle.model.image_spec
    shape = (count, *spec.crop, spec.channels)
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    return {"input": spec.to_input(pixels)}


def opened(result: BuildResult) -> TrtexecSession:
    session = open_engine(result.engine)
    assert isinstance(session, TrtexecSession)
    return session


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_of_every_version_gives_what_its_graph_gives(
    bundle: Bundle, use: Callable[..., None], version: str, precision: Precision
) -> None:
    use(version)
    result = build(bundle, XAVIER, BuildConfig(precision, profile=PROFILE))
    sidecar = result.sidecar
    assert (sidecar.backend, sidecar.runtime_version) == ("trtexec", version)
    strong = {"fp16": "model.fp16.onnx", "int8": "model.int8-fp16.onnx"}
    weak = {"fp16": "model.onnx", "int8": "model.int8.onnx"}
    assert sidecar.onnx == (strong if version.startswith("11") else weak)[precision]
    feed = images(bundle, 5)
    with (
        opened(result) as session,
        OnnxRuntimeSession(bundle.file(sidecar.onnx), optimise="none") as ort,
    ):
        assert session.inputs == ort.inputs
        np.testing.assert_allclose(
            session.run(feed)["logits"], ort.run(feed)["logits"], rtol=1e-5, atol=1e-5
        )


def header_of(result: BuildResult) -> dict[str, Any]:
    """Return what the stand-in was asked for, and what it read."""
    line = result.engine.read_bytes().partition(b"\n")[0]
    header: dict[str, Any] = json.loads(line.partition(b" ")[2])
    return header


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BuildConfig("fp32"), set()),
        (BuildConfig("fp16"), {"--fp16"}),
        (BuildConfig("int8"), {"--fp16", "--int8"}),
        (BuildConfig("int8", rest="fp32"), {"--int8"}),
    ],
)
def test_int8_never_goes_without_the_type_of_the_rest(
    bundle: Bundle, use: Callable[..., None], config: BuildConfig, expected: set[str]
) -> None:
    use("8.5.2")
    options = header_of(build(bundle, XAVIER, config))["options"]
    assert options.keys() & {"--fp16", "--int8"} == expected
    assert "--noTF32" in options


@pytest.mark.parametrize(
    ("config", "graph"),
    [
        (BuildConfig("fp32", strongly_typed=True), "model.onnx"),
        (BuildConfig("fp16", strongly_typed=True), "model.fp16.onnx"),
        (BuildConfig("int8", strongly_typed=True), "model.int8-fp16.onnx"),
        (BuildConfig("int8", rest="fp32", strongly_typed=True), "model.int8.onnx"),
    ],
)
@pytest.mark.parametrize("version", ["10.3.0", "11.4.1"])
def test_a_strongly_typed_engine_takes_every_type_from_its_graph(
    bundle: Bundle, use: Callable[..., None], config: BuildConfig, graph: str, version: str
) -> None:
    use(version)
    result = build(bundle, XAVIER, config)
    options = header_of(result)["options"].keys()
    assert result.sidecar.onnx == graph
    assert options & {"--fp16", "--int8", "--calib"} == set()
    assert ("--stronglyTyped" in options) == version.startswith("10")
    feed = images(bundle, 3)
    with opened(result) as session, OnnxRuntimeSession(bundle.file(graph), optimise="none") as ort:
        np.testing.assert_allclose(
            session.run(feed)["logits"], ort.run(feed)["logits"], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("version", "number"), [("8.2.1", "8201"), ("8.5.2", "8502"), ("10.3.0", "100300")]
)
def test_int8_on_the_dla_takes_our_ranges_and_runs_on_its_core(
    bundle: Bundle, use: Callable[..., None], version: str, number: str
) -> None:
    use(version)
    config = BuildConfig("int8", profile=(4, 4, 4), implicit="ranges", dla=1)
    result = build(bundle, XAVIER, config)
    header = header_of(result)
    assert header["options"]["--useDLACore"] == "1"
    assert header["options"].keys() >= {"--allowGPUFallback", "--int8", "--fp16"}
    # TensorRT does not use the ranges of another version's cache.
    assert header["calibration"].startswith(f"TRT-{number}-EntropyCalibration2\n")
    table = json.loads(bundle.file("calibration.json").read_text())["tensors"]
    entries = header["calibration"].splitlines()[1:]
    assert {line.rpartition(":")[0] for line in entries} >= set(table)
    (printed,) = [
        word.partition("=")[2]
        for word in equivalent_command(bundle, XAVIER, config).words
        if word.startswith("--calib=")
    ]
    assert Path(printed).read_text().splitlines()[1:] == entries  # a printed command's are the same
    feed = images(bundle, 4)
    with (
        opened(result) as session,
        OnnxRuntimeSession(bundle.file("model.onnx"), optimise="none") as ort,
    ):
        np.testing.assert_allclose(
            session.run(feed)["logits"], ort.run(feed)["logits"], rtol=1e-5, atol=1e-5
        )


def test_layers_that_stay_in_float_are_named_where_the_version_can(
    bundle: Bundle, use: Callable[..., None]
) -> None:
    from resnet_edge.quantize.stage import store_float_layers

    store_float_layers(bundle, {"keep_float": ["fc"]})
    config = BuildConfig("int8", profile=(4, 4, 4), implicit="ranges")
    use("8.5.2")
    options = header_of(build(bundle, XAVIER, config))["options"]
    assert options["--layerPrecisions"] == "fc:fp16"
    assert options["--precisionConstraints"] == "prefer"
    use("8.2.1")
    with pytest.raises(ConfigError, match="cannot keep single layers in float"):
        build(bundle, XAVIER, config)
    with pytest.raises(ConfigError, match="cannot keep single layers in float"):
        equivalent_command(bundle, XAVIER, config, "8.2")
    assert "--layerPrecisions=fc:fp16" in equivalent_command(bundle, XAVIER, config, "8.5").words


@pytest.mark.parametrize(
    ("config", "version", "message"),
    [
        (BuildConfig("fp16", compute_capabilities=("8.6",)), "8.5.2", "--compute-capability"),
        (BuildConfig("fp16", optimization_level=4), "8.5.2", "--builderOptimizationLevel"),
        (BuildConfig("fp16", strongly_typed=True), "8.6.1", "--stronglyTyped"),
        (BuildConfig("int8", implicit="ranges"), "11.4.1", "no implicit quantization"),
        (BuildConfig("int8", implicit="entropy"), "8.5.2", "random numbers"),
    ],
)
def test_what_this_version_cannot_do_is_refused_first(
    bundle: Bundle,
    use: Callable[..., None],
    config: BuildConfig,
    version: str,
    message: str,
) -> None:
    use(version)
    with pytest.raises(ConfigError, match=message) as caught:
        build(bundle, XAVIER, config)
    assert caught.value.hint
    assert not (bundle.path / "engines").exists()


def test_a_version_compatible_engine_runs_with_a_later_version(
    bundle: Bundle, use: Callable[..., None]
) -> None:
    use("10.3.0")
    result = build(bundle, XAVIER, BuildConfig("fp16", profile=PROFILE, version_compatible=True))
    feed = images(bundle, 2)
    with opened(result) as session:
        before = session.run(feed)["logits"]
    use("8.6.1")
    assert "10.3.0" in str(get_backend("trtexec").obstacle(result.sidecar))
    use("10.13.3")
    assert get_backend("trtexec").obstacle(result.sidecar) is None
    with opened(result) as session, pytest.raises(BackendUnavailableError):
        session.run(feed)  # the stand-in's engines are bound to their version
    assert before.shape == (2, 10)


def test_timings_are_kept_by_gpu_and_version(
    bundle: Bundle,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(backend_module, "_gpu", lambda: replace(GPU, compute_capability="7.2"))
    use("8.5.2")
    assert header_of(build(bundle, XAVIER, BuildConfig("fp16")))["timings"] == ""
    second = build(bundle, XAVIER, BuildConfig("fp32"))
    assert header_of(second)["timings"] == "emulated timings;"
    without = build(bundle, XAVIER, BuildConfig("fp32", timing_cache=False))
    assert "--timingCacheFile" not in header_of(without)["options"]
    use("8.6.1")
    assert header_of(build(bundle, XAVIER, BuildConfig("fp16")))["timings"] == ""
    assert len(list((tmp_path / "cache").rglob("*.bin"))) == 2


@pytest.mark.parametrize("version", ["8.2.1", "8.5.2", "11.4.1"])
def test_the_fastest_of_several_builds_is_kept(
    bundle: Bundle,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(backend_module, "_gpu", lambda: replace(GPU, compute_capability="7.2"))
    monkeypatch.setattr(backend_module, "_TIMED", 0.0)
    monkeypatch.setattr(backend_module, "_WARM_UP", 0.0)
    timed: list[str] = []

    def watch(program: Path, arguments: list[str], **options: Any) -> ProcessResult:
        timed.extend(a for a in arguments if a.startswith("--shapes"))
        return run_program(program, arguments, **options)

    monkeypatch.setattr(session_module, "run_program", watch)
    use(version, "second-is-fast")
    result = build(bundle, XAVIER, BuildConfig("int8", profile=(1, 4, 8), builds=3))
    assert timed == ["--shapes=input:4x1x8x8"] * 3  # the optimal batch
    header = header_of(result)
    assert Path(header["folder"]).name == "1"
    assert "--timingCacheFile" not in header["options"]  # or all builds would be equal
    (note,) = result.sidecar.notes
    found = re.fullmatch(
        r"the fastest of 3 builds; GPU ms at batch 4: ([\d.]+), ([\d.]+), ([\d.]+)", note
    )
    assert found is not None
    times = [float(ms) for ms in found.groups()]
    assert times[1] < 1000 <= min(times[0], times[2])
    assert layers_path(result.engine).is_file()
    assert not list(bundle.path.glob(".tmp-*"))
    with opened(result) as session:
        assert session.run(images(bundle, 3))["logits"].shape == (3, 10)


def test_an_engine_is_only_built_for_the_gpu_that_is_here(
    bundle: Bundle, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "_gpu", lambda: GPU)
    use("8.5.2")
    with pytest.raises(ConfigError, match=r"compute capability 7\.2, this Xavier has 8\.6"):
        build(bundle, XAVIER, BuildConfig("fp16"))


@pytest.mark.parametrize("version", ["8.2.1", "11.4.1"])
def test_the_layers_are_described_beside_the_engine(
    bundle: Bundle, use: Callable[..., None], version: str
) -> None:
    use(version)
    result = build(bundle, XAVIER, BuildConfig("fp16"))
    layers = json.loads(layers_path(result.engine).read_text())["Layers"]
    assert "fc" in {layer["Name"] for layer in layers}


def test_a_second_build_is_skipped_until_trtexec_changes(
    bundle: Bundle, use: Callable[..., None]
) -> None:
    use("8.5.2")
    assert not build(bundle, XAVIER, BuildConfig("fp16")).cached
    assert build(bundle, XAVIER, BuildConfig("fp16")).cached
    use("8.6.1")
    assert not build(bundle, XAVIER, BuildConfig("fp16")).cached


def test_warnings_of_the_builder_stand_in_the_sidecar(
    bundle: Bundle, use: Callable[..., None]
) -> None:
    use("8.5.2")
    assert "INT64 weights" in build(bundle, XAVIER, BuildConfig("fp16")).sidecar.warnings[0]


FAULTS = [
    ("unsupported", "operator Frobnicate", "lint"),
    ("no-tactic", "no kernel for conv1", "--workspace"),
    ("no-device", "no usable NVIDIA GPU", "device itself"),
    ("killed", "SIGKILL", "memory"),
    ("disk-full", "could not be written", "disk space"),
    ("no-engine", "wrote no engine", "disk full"),
]


@pytest.fixture
def untouched(bundle: Bundle) -> Iterator[None]:
    """Check that a failed build leaves the bundle as it was."""
    before = {p: p.read_bytes() for p in bundle.path.rglob("*") if p.is_file()}
    yield
    assert {p: p.read_bytes() for p in bundle.path.rglob("*") if p.is_file()} == before
    assert not (bundle.path / "engines").exists()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("fault", "message", "hint"), FAULTS)
def test_a_failed_build_is_explained_and_leaves_nothing(
    bundle: Bundle, use: Callable[..., None], fault: str, message: str, hint: str
) -> None:
    use("8.5.2", fault)
    with pytest.raises(BuildError, match=message) as caught:
        build(bundle, XAVIER, BuildConfig("fp16"))
    assert "model.onnx" in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.usefixtures("untouched")
def test_builds_that_cannot_be_compared_leave_nothing(
    bundle: Bundle, use: Callable[..., None]
) -> None:
    use("8.5.2", "other-version")
    with pytest.raises(BackendUnavailableError, match="cannot run"):
        build(bundle, XAVIER, BuildConfig("fp16", builds=2))


@pytest.mark.usefixtures("untouched")
def test_a_build_without_end_is_ended(
    bundle: Bundle, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use("8.5.2", "hang")
    monkeypatch.setattr(backend_module, "_BUILD_SECONDS", 6.0)
    with pytest.raises(BuildError, match="it took too long"):
        build(bundle, XAVIER, BuildConfig("fp16"))


@pytest.mark.parametrize("fault", ["garbage", "endless"])
def test_a_program_that_prints_anything_is_not_taken_for_trtexec(
    bundle: Bundle, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from resnet_edge.backends.trtexec import process

    monkeypatch.setattr(process, "_TOO_MUCH", 1 << 22)
    use("8.5.2", fault)
    with pytest.raises(BackendUnavailableError, match="does not work"):
        build(bundle, XAVIER, BuildConfig("fp16"))
    assert not get_backend("trtexec").probe().available


def test_probe_says_version_and_place(use: Callable[..., None]) -> None:
    use("10.3.0")
    found = get_backend("trtexec").probe()
    assert (found.available, found.version) == (True, "10.3.0")
    assert found.detail.endswith("/trtexec")


def test_an_engine_of_another_version_is_refused_before_it_is_loaded(
    bundle: Bundle, use: Callable[..., None]
) -> None:
    use("8.5.2")
    result = build(bundle, XAVIER, BuildConfig("fp16"))
    use("8.6.1")
    backend = get_backend("trtexec")
    assert backend.obstacle(result.sidecar) == (
        "it was built with trtexec 8.5.2, this machine has 8.6.1"
    )
    with pytest.raises(EngineMismatchError, match=r"8\.5\.2") as caught:
        opened(result)
    assert caught.value.hint == "build it here"


@pytest.mark.parametrize(
    ("field", "value", "have"),
    [("system", "Linux riscv64", "Linux"), ("compute_capabilities", ("8.7",), "8.6")],
)
def test_an_engine_for_another_machine_is_refused(
    bundle: Bundle,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    value: Any,
    have: str,
) -> None:
    monkeypatch.setattr(backend_module, "_gpu", lambda: GPU)
    use("8.5.2")
    result = build(bundle, replace(XAVIER, compute_capability="8.6"), BuildConfig("fp16"))
    assert result.sidecar.device == GPU.name
    assert get_backend("trtexec").obstacle(result.sidecar) is None
    said = get_backend("trtexec").obstacle(replace(result.sidecar, **{field: value}))
    assert said is not None
    assert (value if field == "system" else value[0]) in said
    assert have in said


def test_without_trtexec_the_obstacle_says_so(
    bundle: Bundle, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use("8.5.2")
    sidecar = build(bundle, XAVIER, BuildConfig("fp16")).sidecar
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "not on PATH" in str(get_backend("trtexec").obstacle(sidecar))
    assert not get_backend("trtexec").probe().available


@pytest.mark.parametrize("count", [1, 2, 8, 9, 17])
def test_any_number_of_images_runs_whatever_the_profile(
    bundle: Bundle, use: Callable[..., None], count: int
) -> None:
    use("10.3.0")
    result = build(bundle, XAVIER, BuildConfig("fp32", profile=PROFILE))
    feed = images(bundle, count)
    with (
        opened(result) as session,
        OnnxRuntimeSession(bundle.file("model.onnx"), optimise="none") as ort,
    ):
        found = session.run_rows(feed["input"])["logits"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, ort.run(feed)["logits"], rtol=1e-5, atol=1e-5)


def test_raw_pixels_go_in_as_bytes(
    exported: Callable[[str], Bundle], use: Callable[..., None], tmp_path: Path
) -> None:
    use("8.6.1")
    bundle = Bundle.open(Path(shutil.copytree(exported("uint8").path, tmp_path / "raw")))
    result = build(bundle, XAVIER, BuildConfig("fp32", profile=PROFILE))
    feed = images(bundle, 3)
    assert feed["input"].dtype == np.uint8
    with (
        opened(result) as session,
        OnnxRuntimeSession(bundle.file("model.onnx"), optimise="none") as ort,
    ):
        np.testing.assert_allclose(
            session.run(feed)["logits"], ort.run(feed)["logits"], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_times_have_their_parts_and_no_warm_up(
    bundle: Bundle, use: Callable[..., None], version: str
) -> None:
    use(version, "slow-start")  # the first call takes a second more, inside the warm-up
    result = build(bundle, XAVIER, BuildConfig("fp32", profile=PROFILE))
    with opened(result) as session:
        found = session.measure(images(bundle, 4), warm_up=0.1, seconds=0.0, count=5)
    assert len(found.total) >= 5
    assert max(found.total) < 1000
    assert {part: len(values) for part, values in found.parts.items()} == dict.fromkeys(
        ("h2d", "compute", "d2h"), len(found.total)
    )
    assert sum(found.parts["h2d"]) > 0  # copies count, in 11 too
    for row in zip(found.total, *found.parts.values(), strict=True):
        assert row[0] == pytest.approx(sum(row[1:]), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_trtexec_is_told_milliseconds_of_warm_up_and_seconds_of_measurement(
    bundle: Bundle, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    asked: list[str] = []

    def watch(program: Path, arguments: list[str], **options: Any) -> ProcessResult:
        asked.extend(arguments)
        return run_program(program, arguments, **options)

    use(version)
    with opened(build(bundle, XAVIER, BuildConfig("fp32", profile=PROFILE))) as session:
        monkeypatch.setattr(session_module, "run_program", watch)
        session.measure(images(bundle, 2), warm_up=0.0125, seconds=0.01, count=3)
    assert "--warmUp=13" in asked
    assert "--duration=1" in asked
    assert "--iterations=3" in asked


def test_raw_pixels_are_refused_where_tensorrt_has_no_bytes(
    exported: Callable[[str], Bundle], use: Callable[..., None]
) -> None:
    use("8.2.1")
    with pytest.raises(ConfigError, match=r"TensorRT 8\.2\.1 takes no uint8") as caught:
        build(exported("uint8"), XAVIER, BuildConfig("fp16"))
    assert "--input float" in str(caught.value.hint)


def test_a_batch_outside_the_profile_is_refused(bundle: Bundle, use: Callable[..., None]) -> None:
    use("8.5.2")
    result = build(bundle, XAVIER, BuildConfig("fp32", profile=PROFILE))
    with opened(result) as session:
        with pytest.raises(ConfigError, match="takes 2 to 8 images, not 1"):
            session.measure(images(bundle, 1), warm_up=0.0, seconds=0.0, count=1)
        with pytest.raises(ConfigError, match="takes 2 to 8 images, not 9"):
            session.run(images(bundle, 9))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("half-output", "outputs cannot be read"),
        ("other-version", r"built with TensorRT 8\.5\.2"),
        ("no-device", "no usable NVIDIA GPU"),
    ],
)
def test_a_run_that_fails_is_explained(
    bundle: Bundle, use: Callable[..., None], fault: str, message: str
) -> None:
    use("8.5.2")
    result = build(bundle, XAVIER, BuildConfig("fp32", profile=PROFILE))
    use("8.5.2", fault)
    with opened(result) as session, pytest.raises(BackendUnavailableError, match=message):
        session.run(images(bundle, 2))


def test_a_closed_session_leaves_no_files(
    bundle: Bundle,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import tempfile

    (tmp_path / "files").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "files"))
    use("8.5.2")
    with opened(build(bundle, XAVIER, BuildConfig("fp32", profile=PROFILE))) as session:
        session.run(images(bundle, 2))
        assert any((tmp_path / "files").rglob("outputs.json"))
    assert not any((tmp_path / "files").iterdir())
