"""The peers, seen from our side: what is installed, and each run as a process of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Report, say

from resnet_edge.images.spec import ImageSpec

HERE = Path(__file__).resolve().parent
INSTALL = "see benchmarks/README.md, or: python3 -m venv {venv} && {pip} install -r {req}{more}"
LIMIT_GB, LIMIT_SECONDS = 12.0, 1800.0
BUSY = 0.2  # CPUs kept busy by others, above which timings are not to be trusted
_POLL_SECONDS = 0.1
_NEEDS = {"ort": ("onnxruntime",), "modelopt": ("nvidia-modelopt", "onnxruntime"),
          "nncf": ("nncf", "openvino"), "openvino": ("openvino",)}  # fmt: skip


@dataclass(frozen=True)
class Peers:
    """The interpreter that has the peers, and what it has.

    Attributes:
        python: The interpreter.
        versions: Of its packages, by name.
        limit_gb: Resident memory at which a run is stopped.
    """

    python: Path
    versions: dict[str, str]
    limit_gb: float = LIMIT_GB

    @classmethod
    def find(cls, python: Path, limit_gb: float = LIMIT_GB) -> Peers:
        """Ask an interpreter which peers it has; none if it does not exist."""
        if not python.exists():
            return cls(python, {}, limit_gb)
        result = run_child([python, HERE / "peer_worker.py", "versions"], limit_gb)
        return cls(python, result.get("versions", {}), limit_gb)

    def available(self, tools: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the tools that can run, and one line for each that cannot."""
        found, missing = [], []
        for tool in tools:
            absent = [p for p in _NEEDS[tool.partition("-")[0]] if p not in self.versions]
            if absent:
                missing.append(f"{tool} skipped: {', '.join(absent)} missing; {self._how(absent)}")
                say(missing[-1])
            else:
                found.append(tool)
        return found, missing

    def quantize(
        self, tool: str, model: Path, data: Path, spec: ImageSpec, out: Path, **more: Any
    ) -> dict[str, Any]:
        """Quantize an ONNX model with a tool, alone in a process.

        Args:
            tool: Name in `peer_worker`.
            model: Float ONNX file.
            data: uint8 N x H x W x C, .npy.
            spec: Preprocessing that is left after decoding: mean and std.
            out: What to write.
            **more: Further keys of the job, see `peer_worker`.

        Returns:
            What `peer_worker` measured, or the key ``error``.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            given = Path(folder) / "model.onnx"  # a copy: ModelOpt writes beside its input
            shutil.copyfile(model, given)
            job = {
                "tool": tool, "model": str(given), "data": str(data), "out": str(out),
                "mean": spec.mean, "std": spec.std, **more,
            }  # fmt: skip
            command: list[str | Path] = [self.python, HERE / "peer_worker.py", json.dumps(job)]
            return run_child(command, self.limit_gb)

    def _how(self, absent: Sequence[str]) -> str:
        pip = self.python.with_name("pip")
        more = f" && {pip} install --no-deps nvidia-modelopt==0.47.0"
        return INSTALL.format(
            venv=self.python.parent.parent, pip=pip, req="benchmarks/peers.txt",
            more=more if "nvidia-modelopt" in absent else "",
        )  # fmt: skip


def run_child(command: Sequence[str | Path], limit_gb: float = LIMIT_GB) -> dict[str, Any]:
    """Run a command that prints a RESULT line, within ``limit_gb`` and half an hour.

    Returns:
        What it printed, with ``other_cpus``: how many CPUs everything else on this machine, and
        its host, kept busy meanwhile; or the key ``error``.
    """
    usage = Usage()
    with tempfile.TemporaryFile("w+") as stream:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=stream, stderr=subprocess.STDOUT, text=True
        )
        try:
            stopped = _watch(process, limit_gb)
        finally:
            process.kill()
            process.wait()
        if stopped is not None:
            return stopped
        stream.seek(0)
        lines = stream.read().splitlines()
    for line in lines:
        if line.startswith("RESULT "):
            found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return found | {"other_cpus": usage.others()}
    last = " / ".join(line.strip() for line in lines[-2:])[-300:]
    return {"error": f"failed (exit code {process.returncode}): {last}".replace("|", "/")}


def take_turns(
    runs: Mapping[str, Callable[[], dict[str, Any]]],
    rounds: int,
    repeat_limit: float = float("inf"),
) -> dict[str, list[dict[str, Any]]]:
    """Run all in the order A B B A …; what failed or took over ``repeat_limit`` s runs once."""
    results: dict[str, list[dict[str, Any]]] = {label: [] for label in runs}
    for turn in range(rounds):
        for label in reversed(runs) if turn % 2 else runs:
            earlier = results[label]
            if earlier and ("error" in earlier[0] or earlier[0].get("seconds", 0) > repeat_limit):
                continue
            earlier.append(runs[label]())
            found = earlier[-1]
            took = f"{found['seconds']:.3g} s" if "seconds" in found else "done"
            say(f"round {turn + 1}, {label}: {found.get('error', took)}")
    return results


def note_busy(report: Report) -> None:
    """Say in a report whether others kept CPUs busy during its runs."""
    busy = [run["other_cpus"] for value in report.values for run in value["runs"]
            if run.get("other_cpus", 0) > BUSY]  # fmt: skip
    if busy:
        report.notes.append(
            f"NOT QUIET: others kept more than {BUSY} CPUs busy during {len(busy)} runs, up to "
            f"{max(busy)}"
        )


def _watch(process: subprocess.Popen[str], limit_gb: float) -> dict[str, Any] | None:
    """Wait for a process; kill it and say so once it passes the limit of memory or time."""
    started = time.monotonic()
    while process.poll() is None:
        seconds, size = time.monotonic() - started, _resident(process.pid)
        if size > limit_gb * 1e9 or seconds > LIMIT_SECONDS:
            process.kill()
            where = f"at {limit_gb:.0f} GB " if size > limit_gb * 1e9 else ""
            return {
                "error": f"killed {where}after {seconds:.0f} s",
                "resident_mb": size / 2**20, "seconds_until_killed": seconds,
            }  # fmt: skip
        time.sleep(_POLL_SECONDS)
    return None


class Usage:
    """Splits the machine's CPU time since now into our children's and everybody else's."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._ours = _busy_seconds(), _children_seconds()

    def others(self) -> float:
        """Return the mean number of CPUs that others kept busy."""
        others = (_busy_seconds() - self._busy) - (_children_seconds() - self._ours)
        return round(max(0.0, others) / (time.monotonic() - self._began), 2)


def _busy_seconds() -> float:
    """Return the CPU time of the whole machine, idle and waiting left out, stolen included."""
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _resident(pid: int) -> int:
    """Return a process's resident bytes; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in status.splitlines())
    return next((1024 * int(parts[1]) for parts in lines if parts[0] == "VmRSS:"), 0)
