"""Test doubles stay with the tests, and what only they have shown is called emulated."""

from __future__ import annotations

import ast
import re
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


def part_of(page: str, start: str, end: str) -> str:
    """Return a page from a heading or the start of a table's row to where that ends, unwrapped."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert text.count(start) == 1, start
    return " ".join(text[text.index(start) :].split(end)[0].split())


@pytest.mark.parametrize(
    ("page", "start", "end", "said"),
    [
        ("README.md", "| Linux x86-64, RTX 20", "\n", "running them has not been verified"),
        ("README.md", "| Jetson and desktop, TensorRT 8.6", "\n", "on an emulated device;"),
        ("README.md", "| Jetson and desktop, TensorRT 8.6", "\n", "no Jetson yet"),
        ("README.md", "| Jetson Nano, TX2, Xavier", "\n", "Emulated only: tested against a"),
        ("README.md", "| Jetson Nano, TX2, Xavier", "\n", "not with a real trtexec"),
        ("README.md", "| Windows, RTX", "\n", "| unverified |"),
        ("docs/tensorrt.md", "## How far this is", "\n#", "tested on an *emulated* device"),
        ("docs/tensorrt.md", "## How far this is", "\n#", "every Jetson have not been at hand"),
        ("docs/trtexec.md", "**Emulated.**", "\n\n", "Nothing on this page has been run with"),
    ],
)
def test_a_page_says_where_it_stands_what_has_only_been_emulated(
    page: str, start: str, end: str, said: str
) -> None:
    assert said in part_of(page, start, end)


RAN = re.compile(
    r"\bran (?:on an? (\w+) with TensorRT (\d+\.\d+)|with TensorRT (\d+\.\d+)\S* on one (\w+))",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    ("page", "start", "end"),
    [
        ("README.md", "| Jetson and desktop, TensorRT 8.6", "\n"),
        ("docs/tensorrt.md", "## How far this is verified", "\n#"),
    ],
)
def test_what_is_said_to_have_run_on_a_gpu_is_recorded(page: str, start: str, end: str) -> None:
    recorded = [path.stem for path in (REPOSITORY / "docs/results/devices").glob("*.json")]
    claims = [[word for word in found if word] for found in RAN.findall(part_of(page, start, end))]
    assert claims
    for claim in claims:
        assert any(all(word.lower() in name for word in claim) for name in recorded), claim
