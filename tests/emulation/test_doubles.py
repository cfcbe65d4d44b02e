"""Test doubles stay with the tests, and what only they have shown is called emulated."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
DOUBLES = {"tests", "unittest", "mock"}


def test_nothing_that_ships_imports_a_double() -> None:
    found = []
    for path in sorted((REPOSITORY / "resnet_edge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            found += [f"{path.name}: {n}" for n in names if n.partition(".")[0] in DOUBLES]
    assert found == []


@pytest.mark.parametrize("page", ["README.md", "docs/tensorrt.md", "docs/trtexec.md"])
def test_pages_about_devices_say_what_is_emulated(page: str) -> None:
    assert "emulated" in (REPOSITORY / page).read_text().lower()
