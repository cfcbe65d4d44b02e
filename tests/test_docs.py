"""What the documents print is what the code says."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest

from resnet_edge.experiment.curves import Comparison, final_table
from tests.conftest import REPOSITORY, require

DOCS = REPOSITORY / "docs"


def script(name: str) -> Any:
    """Import a script of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables(page: str) -> dict[str, str]:
    """Return the tables between the marks of a page, by name."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- table (\S+) -->\n(.*?)<!-- end -->", text, re.DOTALL))


def test_the_tables_of_the_resnet_page_are_what_the_code_builds() -> None:
    require("torch")
    require("matplotlib")
    page = script("make_resnet_page")
    assert tables("resnet.md") == {name: table() for name, table in page.TABLES.items()}


@pytest.mark.parametrize("page", ["resnet.md", "results/degradation.md"])
def test_every_local_link_of_a_page_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        assert ((DOCS / page).parent / link).exists(), link


def test_the_measured_tables_are_those_of_the_committed_curves() -> None:
    measured = tables("results/degradation.md")
    assert set(measured) >= {"degradation"}
    for name, table in measured.items():
        curves = Comparison.read(DOCS / "results" / f"{name}.json")
        assert table == final_table(curves), name
