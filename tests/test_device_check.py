"""``make device-check``: honest without a device; with a stand-in driver, every step is taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.cuda.device import LIBRARIES
from resnet_edge.build.request import Request, check_request
from resnet_edge.catalog.targets import Target, list_targets
from resnet_edge.errors import ConfigError
from tests.conftest import REPOSITORY, require
from tests.device.test_nvidia import DRIVER, compile_library

if TYPE_CHECKING:
    from pathlib import Path

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
device_check = __import__("device_check")
device_result = __import__("device_result")
device_session = __import__("device_session")
sys.path.pop(0)

JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="absent"><skipped message="no lab"/></testcase>
<testcase classname="a" name="bad"><failure message="1 != 2">trace</failure></testcase>
<testcase classname="a" name="broken"><error message="boom">trace</error></testcase>
</testsuite></testsuites>"""


def run_check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "device_check.py"), *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_a_device_it_says_that_nothing_was_checked(tmp_path: Path) -> None:
    hidden = compile_library(tmp_path, "libcuda", DRIVER, VERSION=13000, INIT=100, COUNT=0)
    (tmp_path / "libcuda.so.1").symlink_to(hidden)
    work, output = tmp_path / "work", tmp_path / "output"
    done = run_check("--work", str(work), "--output", str(output), LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 1
    assert "nothing of a device was checked" in done.stdout
    assert not output.exists()
    result = json.loads((work / "result.json").read_text())
    assert (result["verdict"], result["device"]) == ("nothing of a device was checked", "")
    assert [step["name"] for step in result["steps"]] == ["doctor", "everything on a device"]
    assert str(REPOSITORY) not in (work / "result.json").read_text()


def test_a_folder_without_wheels_is_refused(tmp_path: Path) -> None:
    done = run_check("--work", str(tmp_path / "work"), "--wheels", str(tmp_path))
    assert done.returncode == 1
    assert "holds no wheels" in done.stdout
    result = json.loads((tmp_path / "work" / "result.json").read_text())
    assert result["verdict"] == "failed"


@pytest.mark.slow
def test_on_a_gpu_without_any_runtime_the_rest_is_checked_and_the_gaps_are_named(
    tmp_path: Path,
) -> None:
    """The GPU is a stand-in driver that says it is an H100; nothing can compute on it."""
    require("torch")
    source = DRIVER.replace("NVIDIA Stand-in", "NVIDIA H100 80GB HBM3")
    source = source.replace(
        "code == 75 ? 8 : code == 76 ? d - 31", "code == 75 ? 9 : code == 76 ? 0"
    )
    library = compile_library(tmp_path, "libcuda", source, VERSION=13000, INIT=0, COUNT=1)
    (tmp_path / "libcuda.so.1").symlink_to(library)
    output = tmp_path / "output"
    done = run_check(
        "--work", str(tmp_path / "work"), "--output", str(output), "--networks", "resnet20",
        "resnet18", LD_LIBRARY_PATH=str(tmp_path),
    )  # fmt: skip
    result = json.loads((output / "nvidia-h100-80gb-hbm3.json").read_text())
    steps = {step["name"]: step for step in result["steps"]}
    assert done.returncode == 1, "the stand-in has less memory than an H100, which a test finds"
    assert result["verdict"] == "failed"
    failed = {name for name, step in steps.items() if step["outcome"] == "failed"}
    reached = {  # by the libraries that this environment has; the stand-in has no memory to give
        name for name in steps if name.startswith("device memory through")
        and steps[name]["outcome"] != "not checked"
    }  # fmt: skip
    assert failed == {"tests marked gpu"} | reached
    assert steps["target"]["values"]["name"] == "h100"
    assert steps["resnet20: export"]["outcome"] == "passed"
    assert steps["resnet18: export"]["values"]["architecture"] == "resnet18"
    assert steps["resnet20: engines (tensorrt)"]["outcome"] == "not checked"
    assert steps["TensorRT-RTX is refused here"]["outcome"] == "passed"
    assert "9.0" in steps["TensorRT-RTX is refused here"]["values"]["error"]["message"]
    unverified = "\n".join(result["unverified"])
    for gap in ("PyTorch on the GPU", "ONNX Runtime on the GPU", "Jetson"):
        assert gap in unverified
    assert ("device memory" in unverified) == (len(reached) < len(LIBRARIES))


@pytest.mark.slow
def test_packages_come_from_a_folder_over_what_is_there(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        info = "tiny-1.0.dist-info"
        wheel.writestr("tiny.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(
            f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    (wheels / "broken-1.0.tar.gz").write_bytes(b"no archive")
    session = device_session.Session(sys.executable, tmp_path, 300.0)
    assert device_check.install(session, wheels)
    assert session.steps[-1].failed, "what cannot be compiled is told"
    step = session.run("import", ["-c", "import numpy, tiny; print(tiny.answer)"])
    assert (step.detail, step.values) == ("", 42)


@pytest.mark.parametrize("target", [t for t in list_targets() if t.backend != "onnxruntime"])
def test_int8_is_expected_of_every_target_that_does_not_refuse_it(target: Target) -> None:
    try:
        check_request(target, Request(BuildConfig("int8")))
        offered: tuple[str, ...] = ("fp16", "int8")
    except ConfigError:
        offered = ("fp16",)
    assert device_check.precisions(vars(target)) == offered


def session_with(tmp_path: Path, doctor: dict[str, Any]) -> Any:
    return device_session.Session(sys.executable, tmp_path, 60.0, doctor)


def doctor_of(**packages: Any) -> dict[str, Any]:
    good = [{"name": "package", "status": "ok", "found": "", "fix": ""}]
    names = ("pytorch", "onnxruntime", "tensorrt", "tensorrt_rtx", "trtexec")
    return {
        "machine": {
            "packages": packages, "jetson": None,
            "driver": {"gpus": [{"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9"}]},
        },
        "backends": {name: {"usable": True, "checks": good} for name in names},
    }  # fmt: skip


def test_what_is_there_may_not_be_skipped(tmp_path: Path) -> None:
    doctor = doctor_of(
        torch={"version": "2.11", "details": {"gpus": ["NVIDIA GeForce RTX 4090"]}},
        onnxruntime={"version": "1.32", "details": {"cuda_works": False}},
        pycuda={"version": None, "details": {}},
        **{"cuda.bindings": {"version": "13.0", "details": {}}},
    )
    doctor["backends"]["trtexec"]["usable"] = False
    session = session_with(tmp_path, doctor)
    assert session.required == ["cuda", "gpu", "tensorrt", "tensorrt_rtx", "torch"]
    doctor["backends"]["tensorrt_rtx"]["checks"][0]["status"] = "warn"
    assert "tensorrt_rtx" not in session.required


def test_tests_of_engines_are_not_skipped_for_want_of_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []

    def run(self: Any, name: str, arguments: Any, *, environment: Any, **_: Any) -> Any:
        given.append(environment)
        return device_session.Step(name, "passed")

    monkeypatch.setattr(device_session.Session, "run", run)
    session = session_with(tmp_path, doctor_of())
    device_check.run_gpu_tests(session, None)
    device_check.run_gpu_tests(session, "/somewhere/resnet20")
    without, with_bundle = given
    assert "torch" in without["RESNET_EDGE_REQUIRE"].split(",")
    assert "RESNET_EDGE_BUNDLE" not in without
    assert "torch" not in with_bundle["RESNET_EDGE_REQUIRE"].split(",")
    assert with_bundle["RESNET_EDGE_BUNDLE"] == "/somewhere/resnet20"


def test_a_test_report_is_counted(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(JUNIT)
    assert device_result.read_junit(tmp_path / "r.xml") == {
        "passed": 1,
        "failed": [{"test": "a::bad", "reason": "1 != 2"}, {"test": "a::broken", "reason": "boom"}],
        "skipped": [{"test": "a::absent", "reason": "no lab"}],
    }


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"fp32": {"max_abs": 0.01, "max_logit": 10.0}}, ""),
        ({"fp32": {"max_abs": 0.03, "max_logit": 10.0}}, "fp32 logits differ"),
        ({"fp16": {"max_abs": 0.03, "max_logit": 10.0}, "torch": "2.11"}, ""),
        ({"fp16": {"max_abs": float("nan"), "max_logit": 10.0}}, "fp16 logits differ"),
        ({"max_abs": 1.0, "max_logit": 10.0, "latency_ms": {"1": {"p50": 1}}}, "logits differ"),
    ],
)
def test_logits_are_judged_by_precision(values: dict[str, Any], complaint: str) -> None:
    found = device_check.judge_logits(values)
    assert found.startswith(complaint)
    assert bool(found) == bool(complaint)


@pytest.mark.parametrize(
    ("program", "outcome", "detail", "values"),
    [
        ("print('{\"a\": 1}')", "passed", "", {"a": 1}),
        ("print('noise'); print('{\"a\": 1}')", "passed", "", {"a": 1}),
        ("print('no data')", "passed", "", None),
        ("import sys; sys.exit('it broke')", "failed", "it broke", None),
        ("import sys; sys.exit(7)", "failed", "exit code 7", None),
        ("import sys; print('{\"error\": {\"message\": \"ours\"}}'); sys.exit(1)", "failed", "ours",
         {"error": {"message": "ours"}}),
        ("import time; time.sleep(100)", "failed", "took longer than 3 s", None),
    ],
)  # fmt: skip
def test_a_step_keeps_what_came_out(
    program: str, outcome: str, detail: str, values: Any, tmp_path: Path
) -> None:
    session = device_session.Session(sys.executable, tmp_path, 3.0)
    step = session.run("x", ["-c", program])
    assert (step.outcome, step.detail, step.values) == (outcome, detail, values)
    assert session.steps == [step]


def test_values_are_judged(tmp_path: Path) -> None:
    session = device_session.Session(sys.executable, tmp_path, 60.0)
    step = session.run("x", ["-c", "print(3)"], judge=lambda n: "" if n == 4 else f"{n} is not 4")
    assert (step.outcome, step.detail) == ("failed", "3 is not 4")
    step = session.run("y", ["-c", "pass"], judge=lambda found: found["executed"])
    assert step.failed
    assert "not expected" in step.detail


def test_a_run_passes_only_with_a_device_and_without_a_failure(tmp_path: Path) -> None:
    session = session_with(tmp_path, doctor_of())
    session.add(device_session.Step("a", "passed"))
    session.skip("b", "no such thing")
    result = device_result.summarize(session)
    assert (result["verdict"], result["device"]) == ("passed", "NVIDIA GeForce RTX 4090")
    assert result["unverified"][0] == "b: no such thing"
    session.add(device_session.Step("c", "failed", "why"))
    assert device_result.summarize(session)["verdict"] == "failed"
    assert device_result.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
