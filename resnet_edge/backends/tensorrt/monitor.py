"""TensorRT's progress monitor, shown as our progress. Only where the module has one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.tensorrt.callbacks import Failure
from resnet_edge.progress import Progress, Task

if TYPE_CHECKING:
    import tensorrt

__all__ = ["attach_progress"]


@contextmanager
def attach_progress(
    trt: ModuleType,
    builder_config: tensorrt.IBuilderConfig,
    progress: Progress,
    label: str,
    failure: Failure,
) -> Iterator[None]:
    """Show the phases of the build that follows; what goes wrong in it ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """The outermost phase is the task, the inner ones are its status."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._outer: str | None = None
            self._opened: AbstractContextManager[Task] | None = None
            self._task: Task | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with failure.caught(), self._lock:
                if self._outer is None:
                    self._outer = phase_name
                    self._opened = progress.task(label, total=num_steps)
                    self._task = self._opened.__enter__()
                elif self._task is not None:
                    self._task.advance(0, status=phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with failure.caught(), self._lock:
                if phase_name == self._outer and self._task is not None:
                    self._task.advance()
            return not failure.happened

        def phase_finish(self, phase_name: str) -> None:
            with failure.caught(), self._lock:
                if phase_name == self._outer:
                    self.end()

        def end(self) -> None:
            opened, self._outer, self._opened, self._task = self._opened, None, None, None
            if opened is not None:
                opened.__exit__(None, None, None)

    monitor: Any = Monitor()
    builder_config.progress_monitor = monitor
    try:
        yield
    finally:
        monitor.end()
