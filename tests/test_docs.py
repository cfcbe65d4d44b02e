"""What the documents print is what the code says."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest

from tests.conftest import REPOSITORY, require

DOCS = REPOSITORY / "docs"


def load(name: str) -> Any:
    """Return one of the scripts that make the pages."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> Any:
    """The script that makes the pages."""
    require("torch")
    require("matplotlib")
    return load("make_pages")


@pytest.mark.parametrize(("page", "tables"), [("resnet.md", 2), ("results/degradation.md", 4)])
def test_the_tables_of_a_page_are_what_the_code_and_the_measured_curves_say(
    script: Any, page: str, tables: int
) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text == script.with_tables(page)
    assert len(re.findall(r"<!-- table \S+ -->\n\|", text)) == tables == len(script.TABLES[page])


def test_the_picture_of_the_rooms_is_what_the_imports_say() -> None:
    script = load("make_architecture")
    drawn = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == script.picture(), "make docs draws it anew"
    names = {name for floor in script.rooms() for name in floor}
    assert all(f">{name}</text>" in drawn for name in names)


def test_the_map_names_every_room_and_nothing_that_is_not_there() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {name for floor in load("make_architecture").rooms() for name in floor}
    for room in rooms:
        assert f"`{room}" in page, room
    for path in re.findall(r"`((?:resnet_edge|tests|calibration|engines|docs)/[\w./-]*)`", page):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("page", ["architecture.md", "resnet.md", "results/degradation.md"])
def test_every_local_link_of_a_page_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        assert ((DOCS / page).parent / link).exists(), link
