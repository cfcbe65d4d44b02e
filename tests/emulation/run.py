"""Runs a function of a test in a process of its own, with other libraries than the test's."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["run"]

REPOSITORY = Path(__file__).parent.parent.parent
_SCRIPT = """\
from __future__ import annotations
import json, sys
{prepare}
{source}
_result = {name}(*json.loads(sys.argv[1]))
with open(sys.argv[2], "w") as _file:
    json.dump(_result, _file)
"""


def run(
    function: Callable[..., Any],
    *arguments: Any,
    packages: Iterable[Path] = (),
    libraries: Path,
    environment: Mapping[str, str] | None = None,
    prepare: str = "",
    timeout: float = 300,
) -> Any:
    """Return what a function returns in a new process; warnings are errors there too.

    Args:
        function: Its source is what runs, so it imports what it needs and uses no outer names.
        arguments: What it is given; like its result something that JSON can hold.
        packages: Folders that come first on the path.
        libraries: Folder with the shared libraries and CUDA runtime that the process finds first.
        environment: Variables to set.
        prepare: Statements to run before.
        timeout: Seconds until it is taken for hung.

    Raises:
        AssertionError: The process failed; says what it printed.
    """
    __tracebackhide__ = True
    source = textwrap.dedent(inspect.getsource(function))
    script = _SCRIPT.format(source=source, name=function.__name__, prepare=prepare)
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path) for path in (libraries, *packages, REPOSITORY)),
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONWARNINGS": "error",
        **(environment or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-c", script, json.dumps(arguments), str(result)]
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(result.read_text())
