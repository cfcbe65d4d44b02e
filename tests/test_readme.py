"""What the README prints can be typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, require

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory that looks like the repository, where outputs do no harm."""
    for name in ("calibration", "resnet_edge", "engines"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def test_the_commands_of_the_tour_work_as_printed(workspace: Path) -> None:
    require("tensorrt_rtx")
    tour = next(body for kind, body in BLOCKS if kind == "sh" and "export" in body)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in tour.splitlines():
        run = subprocess.run(
            command.split(), cwd=workspace, env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"


def test_the_python_example_works_as_printed(workspace: Path) -> None:
    require("torch")
    example = next(body for kind, body in BLOCKS if kind == "python")
    run = subprocess.run(
        [sys.executable, "-c", example], cwd=workspace, capture_output=True, text=True, check=True
    )
    assert float(run.stdout) == 100.0


def test_every_local_link_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (REPOSITORY / link).exists(), link


def test_make_targets_named_in_the_readme_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
