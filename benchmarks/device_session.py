"""The steps of device_check.py: each runs one command and keeps what came out of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class Step:
    """What was done.

    Attributes:
        name: For people.
        outcome: ``passed``, ``failed`` or ``not checked``.
        detail: What failed, or why it was not checked; one line.
        command: As typed, without the interpreter.
        seconds: How long it took.
        values: What it measured.
    """

    name: str
    outcome: str
    detail: str = ""
    command: str = ""
    seconds: float = 0.0
    values: Any = None

    @property
    def failed(self) -> bool:
        """Whether what follows from this step cannot be done."""
        return self.outcome == "failed"


@dataclass
class Session:
    """The steps so far, and what running one needs.

    Attributes:
        python: Interpreter that has the packages.
        work: Folder for bundles and reports.
        timeout: Seconds for one step.
        doctor: What ``doctor`` said, once it ran.
        steps: What was done.
    """

    python: str
    work: Path
    timeout: float
    doctor: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """GPUs that the driver sees."""
        found: list[dict[str, Any]] = (
            self.doctor["machine"]["driver"]["gpus"] if self.doctor else []
        )
        return found

    def package(self, name: str) -> dict[str, Any] | None:
        """Return what doctor knows about a Python package that can be imported."""
        package: dict[str, Any] | None = self.doctor["machine"]["packages"].get(name)
        return package if package and package["version"] is not None else None

    def sees_gpu(self, name: str) -> bool:
        """Say whether PyTorch or ONNX Runtime computes on the GPU."""
        details = (self.package(name) or {}).get("details", {})
        return bool(details.get("gpus") or details.get("cuda_works"))

    def runs_engines(self, backend: str) -> bool:
        """Say whether engines of a backend run here; TensorRT-RTX may be able to build only."""
        state = self.doctor["backends"].get(backend)
        if not state or not state["usable"]:
            return False
        return backend != "tensorrt_rtx" or all(c["status"] == "ok" for c in state["checks"])

    @property
    def required(self) -> list[str]:
        """What tests may not skip on this machine, as `tests.conftest.require` names it."""
        found = {"gpu"}
        if self.sees_gpu("torch"):
            found.add("torch")
        if self.sees_gpu("onnxruntime"):
            found |= {"onnxruntime", "onnxruntime-cuda"}
        found |= {n.partition(".")[0] for n in ("pycuda", "cuda.bindings") if self.package(n)}
        found |= {n for n in ("tensorrt", "tensorrt_rtx", "trtexec") if self.runs_engines(n)}
        return sorted(found)

    def add(self, step: Step) -> Step:
        """Note a step and print it; ``steps.json`` is what is left of a run that is killed."""
        self.steps.append(step)
        (self.work / "steps.json").write_text(json.dumps([asdict(s) for s in self.steps], indent=1))
        print(f"{step.outcome:<12} {step.name}" + (f": {step.detail}" if step.detail else ""),
              flush=True)  # fmt: skip
        return step

    def skip(self, name: str, reason: str) -> None:
        """Note that something was not checked."""
        self.add(Step(name, "not checked", reason))

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        codes: Sequence[int] = (0,),
        environment: dict[str, str] | None = None,
        read: Callable[[str], Any] | None = None,
        judge: Callable[[Any], str] = lambda _: "",
    ) -> Step:
        """Run the interpreter as one step.

        Args:
            name: Of the step.
            arguments: For the interpreter.
            codes: Exit codes that are no failure.
            environment: Variables to set.
            read: Makes the step's values out of the output; by default they are the JSON in it.
            judge: Given the values, what is wrong with them; empty for nothing.
        """
        variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})}
        started = time.perf_counter()
        try:
            done = subprocess.run(
                [self.python, *arguments], cwd=self.work, env=variables, timeout=self.timeout,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            output, errors, code = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired:
            output, errors, code = "", f"took longer than {self.timeout:.0f} s", -1
        values = (read or _json_in)(output)
        if code not in codes:
            detail = _reason(values, errors or output, code)
        else:
            try:
                detail = judge(values)
            except (AttributeError, KeyError, TypeError) as error:
                detail = f"what it printed was not expected: {error!r}"
        seconds = round(time.perf_counter() - started, 2)
        outcome = "failed" if detail else "passed"
        return self.add(Step(name, outcome, detail, " ".join(arguments), seconds, values))

    def command(self, name: str, *arguments: str, **options: Any) -> Step:
        """Run a resnet-edge command with ``--json``; options are those of `run`."""
        return self.run(name, ["-m", "resnet_edge", *arguments, "--json", "--quiet"], **options)


def _json_in(output: str) -> Any:
    """Return the JSON that is all of the output or its last line; None where there is none."""
    for text in (output, output.strip().rpartition("\n")[2]):
        with suppress(ValueError):
            return json.loads(text)
    return None


def _reason(values: Any, text: str, code: int) -> str:
    if isinstance(values, dict) and "error" in values:
        return str(values["error"]["message"])
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else f"exit code {code}"
