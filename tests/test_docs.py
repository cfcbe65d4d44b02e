"""What the documents print is what the code says."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest

from tests.conftest import REPOSITORY, require

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def script() -> Any:
    """The script that makes the pages."""
    require("torch")
    require("matplotlib")
    spec = importlib.util.spec_from_file_location("make_pages", DOCS / "make_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("page", "tables"), [("resnet.md", 2), ("results/degradation.md", 4)])
def test_the_tables_of_a_page_are_what_the_code_and_the_measured_curves_say(
    script: Any, page: str, tables: int
) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text == script.with_tables(page)
    assert len(re.findall(r"<!-- table \S+ -->\n\|", text)) == tables == len(script.TABLES[page])


@pytest.mark.parametrize("page", ["resnet.md", "results/degradation.md"])
def test_every_local_link_of_a_page_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        assert ((DOCS / page).parent / link).exists(), link
