"""Run an engine through trtexec: inputs and outputs are files, every call is a process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.base import SelfTimed, Timings
from resnet_edge.backends.trtexec.binary import Trtexec
from resnet_edge.backends.trtexec.failures import explain, succeeded
from resnet_edge.backends.trtexec.inference import Run, run_arguments
from resnet_edge.backends.trtexec.output import check_outputs, parse_outputs, parse_times
from resnet_edge.backends.trtexec.process import run_program
from resnet_edge.errors import BackendUnavailableError, ConfigError
from resnet_edge.tensors import TensorSpec

__all__ = ["TrtexecSession"]

_START_SECONDS = 600.0  # to load CUDA, TensorRT and an engine from a slow SD card
_OUTPUTS, _TIMES = "outputs.json", "times.json"


class TrtexecSession(SelfTimed):
    """An engine that is loaded anew for every call.

    A call costs seconds, so feed as many images at once as the engine takes. Outputs carry six
    significant digits, as trtexec prints them.

    Args:
        trtexec: The executable.
        engine: The file.
        inputs: What it takes; None stands for the batch.
        outputs: What it returns.
        profile: Smallest, optimal and largest batch.
        defaults: How to load it.
    """

    def __init__(
        self,
        trtexec: Trtexec,
        engine: Path,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        profile: tuple[int, int, int] | None,
        defaults: Run,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._trtexec, self._engine = trtexec, engine.resolve()
        self._folder = tempfile.TemporaryDirectory(prefix="resnet-edge-trtexec-")
        self._defaults = defaults
        fixed = inputs[0].shape[0]
        low, _, high = profile or (fixed or 1,) * 3
        self._range = (fixed, fixed) if fixed else (low, high)

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest batch of the engine."""
        return self._range

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once and return every output.

        Raises:
            BackendUnavailableError: trtexec failed.
            ConfigError: The engine does not take this batch.
        """
        batch = self._batch(feed)
        self._call(feed, replace(self._defaults, export_outputs=_OUTPUTS), 10.0 * batch)
        found = parse_outputs(self._read(_OUTPUTS))
        check_outputs(found, {o.name: o.shape for o in self.outputs}, batch)
        return {o.name: found[o.name].astype(o.dtype, copy=False) for o in self.outputs}

    def measure(
        self, feed: Mapping[str, NDArray[Any]], *, warm_up: float, seconds: float, count: int
    ) -> Timings:
        """Let trtexec time one call after another.

        Raises:
            BackendUnavailableError: trtexec failed.
            ConfigError: The engine does not take this batch.
        """
        self._batch(feed)
        wanted = replace(
            self._defaults,
            export_times=_TIMES,
            warm_up_ms=math.ceil(1000 * warm_up),
            seconds=math.ceil(seconds),
            iterations=count,
        )
        self._call(feed, wanted, 10 * (warm_up + seconds) + 10.0 * count)
        return parse_times(self._read(_TIMES), warm_up_ms=wanted.warm_up_ms)

    def close(self) -> None:
        """Remove the files of the last call."""
        self._folder.cleanup()

    def _batch(self, feed: Mapping[str, NDArray[Any]]) -> int:
        batch, (low, high) = len(feed[self.inputs[0].name]), self._range
        if not low <= batch <= high:
            raise ConfigError(
                f"{self._engine} takes {low} to {high} images, not {batch}",
                hint="choose another --batch, or build with a wider --profile",
            )
        return batch

    def _call(self, feed: Mapping[str, NDArray[Any]], wanted: Run, seconds: float) -> None:
        folder = Path(self._folder.name)
        for left_over in folder.iterdir():
            left_over.unlink()
        files, shapes = {}, {}
        for position, spec in enumerate(self.inputs):
            array = np.ascontiguousarray(feed[spec.name], spec.dtype)
            files[spec.name] = f"input{position}.bin"
            array.tofile(folder / files[spec.name])
            if None in spec.shape:
                shapes[spec.name] = array.shape
        arguments = run_arguments(
            str(self._engine), wanted, files=files, shapes=shapes, flags=self._trtexec.flags
        )
        outcome = run_program(
            self._trtexec.path, arguments, folder=folder, seconds=_START_SECONDS + seconds
        )
        if not succeeded(outcome):
            message, hint = explain(outcome)
            raise BackendUnavailableError(
                f"trtexec cannot run {self._engine}: {message}", hint=hint
            )

    def _read(self, name: str) -> str:
        try:
            return (Path(self._folder.name) / name).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise BackendUnavailableError(
                f"trtexec reported success but wrote no {name}", hint="is the disk full?"
            ) from error
