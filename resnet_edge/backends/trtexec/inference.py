"""Runs of an engine as trtexec options, as each version writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_edge.backends.trtexec.command import shapes_option, writable

__all__ = ["Run", "run_arguments"]


@dataclass(frozen=True)
class Run:
    """What an engine is run for: by default once, for its outputs.

    Attributes:
        export_outputs: File for the outputs; empty for none.
        export_times: File for the times; empty for none.
        warm_up_ms: Milliseconds of calls before the measurement.
        seconds: Of the measurement, at least.
        iterations: Calls, at least.
        dla: Core the engine was built for.
        version_compatible: Allow the host code that the engine brings along.
    """

    export_outputs: str = ""
    export_times: str = ""
    warm_up_ms: int = 0
    seconds: int = 0
    iterations: int = 1
    dla: int | None = None
    version_compatible: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, host_code: bool) -> Run:
        """Return how an engine of these settings is loaded.

        Args:
            settings: Of its build, as in its sidecar.
            host_code: Whether the code that a version-compatible engine brings along may run.
        """
        return cls(
            dla=settings.get("dla"),
            version_compatible=host_code and bool(settings.get("version_compatible")),
        )


def run_arguments(
    engine: str,
    run: Run,
    *,
    files: Mapping[str, str],
    shapes: Mapping[str, Sequence[int]],
    flags: Collection[str],
) -> list[str]:
    """Return the options that run an engine.

    The conditions are the same for every version: one call after another, copies included, no
    CUDA graph, no spinning. They are 10.x's defaults but for the overlap; 11 turned them round.

    Args:
        engine: The file.
        run: What for.
        files: Raw input by tensor name; paths without comma and colon.
        shapes: Of the inputs with dynamic dimensions.
        flags: That the executable has.

    Raises:
        GraphError: A tensor's name cannot be written.
    """
    loads = ",".join(f"{writable(name)}:{file}" for name, file in files.items())
    arguments = [f"--loadEngine={engine}", f"--loadInputs={loads}"]
    if shapes:
        arguments.append(f"--shapes={shapes_option(shapes)}")
    if run.dla is not None:
        arguments.append(f"--useDLACore={run.dla}")
    if run.version_compatible:
        arguments.append("--versionCompatible")
    arguments += [
        f"--iterations={run.iterations}",
        f"--warmUp={run.warm_up_ms}",
        f"--duration={run.seconds}",
        "--exposeDMA",
    ]
    arguments += [
        flag
        for flag in ("--includeDataTransfers", "--noCudaGraph", "--noSpinWait")
        if flag in flags
    ]
    if run.export_outputs:
        arguments.append(f"--exportOutput={run.export_outputs}")
    if run.export_times:
        arguments.append(f"--exportTimes={run.export_times}")
    return arguments
