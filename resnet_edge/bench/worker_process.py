"""A contender in a process of its own, which answers every line of JSON with one."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resnet_edge.errors import BackendUnavailableError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Worker"]


class Worker:
    """A process, running inside a ``with`` block.

    Args:
        label: What errors call it.
        command: Starts it.

    Attributes:
        first: What it said once it was ready.

    Raises:
        BackendUnavailableError: It ended instead of answering; says its last message.
    """

    def __init__(self, label: str, command: Sequence[str]) -> None:
        self.label = label
        self.first: dict[str, Any] = {}
        self._command = list(command)

    def __enter__(self) -> Self:
        self._messages = tempfile.TemporaryFile("w+")  # a pipe nobody reads would fill up
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
        )
        try:
            self.first = self._answer()
        except BaseException:  # without a context there is no exit
            self.__exit__()
            raise
        return self

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._messages.seek(0)
            last = self._messages.read().strip().splitlines()[-1:] or ["no message"]
            raise BackendUnavailableError(f"{self.label} cannot run: {last[0]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._messages.close()
