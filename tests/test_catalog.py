"""Recipes, targets, and how both are found."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from resnet_edge import targets
from resnet_edge.calibrate.ranges import METHODS
from resnet_edge.catalog import list_entries, load_entry, read_toml
from resnet_edge.errors import ConfigError
from resnet_edge.recipes import DEFAULT_RECIPE, Recipe, list_recipes, load_recipe
from resnet_edge.resources import find, search_path
from resnet_edge.targets import list_targets, load_target, resolve_target
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECIPES = sorted((REPOSITORY / "calibration" / "recipes").glob("*.toml"))
TARGETS = sorted((REPOSITORY / "engines" / "targets").glob("*.toml"))
ANY_LOADER = pytest.mark.parametrize(
    ("load", "folder"),
    [(load_recipe, "calibration/recipes"), (load_target, "engines/targets")],
    ids=["recipe", "target"],
)
MINIMAL = {
    "calibration/recipes": 'description = "mine"\nmethod = "minmax"\n',
    "engines/targets": 'description = "mine"\nbackend = "onnxruntime"\n',
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that only shipped files are found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_and_says_what_it_does(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(str(path))
    assert recipe.name == path.stem
    assert recipe.method in (*METHODS, "auto")
    assert recipe.description
    assert "\n" not in recipe.description
    assert path.stem.startswith(recipe.method)
    if recipe.method == "percentile":
        assert path.stem.endswith(f"-{recipe.percent}")
    assert Recipe(**recipe.to_json()) == recipe


@pytest.mark.parametrize("path", TARGETS, ids=lambda p: p.stem)
def test_every_shipped_target_loads_and_says_where_its_numbers_come_from(path: Path) -> None:
    target = load_target(path.stem)
    assert target == load_target(str(path)) == resolve_target(path.stem)
    assert target.name == path.stem
    assert target.description
    for line in path.read_text().splitlines():
        if line.startswith("compute_capability"):
            assert re.search(r'= "\d+\.\d"\s+# \w+', line), "the number has no source"


def test_all_shipped_files_are_listed_by_name() -> None:
    assert [r.name for r in list_recipes()] == sorted(p.stem for p in RECIPES)
    assert [t.name for t in list_targets()] == sorted(p.stem for p in TARGETS)
    assert DEFAULT_RECIPE in [r.name for r in list_recipes()]
    assert {*METHODS, "auto"} == {r.method for r in list_recipes()}


@ANY_LOADER
def test_an_unknown_name_is_refused_with_the_known_ones(
    load: Callable[[str], object], folder: str
) -> None:
    with pytest.raises(ConfigError, match="named 'nothing'") as caught:
        load("nothing")
    for path in (REPOSITORY / folder).glob("*.toml"):
        assert path.stem in (caught.value.hint or "")
    assert ".toml" in (caught.value.hint or "")


@ANY_LOADER
def test_a_file_in_the_working_directory_wins(
    load: Callable[[str], object], folder: str, elsewhere: Path
) -> None:
    name = "cpu" if "targets" in folder else "mse"
    assert "mine" not in str(load(name))
    write(elsewhere / folder / f"{name}.toml", MINIMAL[folder])
    write(elsewhere / folder / "new.toml", MINIMAL[folder])
    assert "mine" in str(load(name))
    assert "mine" in str(load("new"))
    entries = list_recipes() if "recipes" in folder else list_targets()
    names = [entry.name for entry in entries]
    assert names == sorted({p.stem for p in (REPOSITORY / folder).glob("*.toml")} | {"new"})
    assert [e.name for e in entries if e.description == "mine"] == sorted([name, "new"])


@ANY_LOADER
def test_a_path_is_taken_as_it_is(
    load: Callable[[str], object], folder: str, elsewhere: Path
) -> None:
    path = write(elsewhere / "somewhere" / "ours.toml", MINIMAL[folder])
    assert "mine" in str(load(str(path)))
    assert "'ours'" in str(load("somewhere/ours.toml"))
    with pytest.raises(ConfigError, match="no such file"):
        load("somewhere/theirs.toml")


@ANY_LOADER
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour = 1\n", "unknown key colour"),
        ('name = "other"\n', "unknown key name"),
        ("", "missing"),
        ("description = \n", "not valid TOML"),
        ('description = "a"\ndescription = "b"\n', "not valid TOML"),
    ],
)
def test_a_malformed_file_is_refused_by_its_path(
    load: Callable[[str], object], folder: str, elsewhere: Path, text: str, complaint: str
) -> None:
    write(elsewhere / folder / "bad.toml", text)
    with pytest.raises(ConfigError, match=rf"bad\.toml.*{complaint}"):
        load("bad")


def test_an_unknown_key_is_refused_with_the_allowed_ones(elsewhere: Path) -> None:
    write(elsewhere / "r.toml", MINIMAL["calibration/recipes"] + "percentile = 99\n")
    with pytest.raises(ConfigError, match="percentile") as caught:
        load_recipe("r.toml")
    assert caught.value.hint == "allowed: description, images, method, percent"


@pytest.mark.parametrize(
    "line",
    [
        'method = "median"',
        "method = 3",
        "percent = 0",
        "percent = 100.5",
        "percent = nan",
        'percent = "high"',
        "images = 0",
        "images = -5",
        "images = 1.5",
        'images = "many"',
        "description = 3",
    ],
)
def test_a_recipe_with_a_bad_value_is_refused(elsewhere: Path, line: str) -> None:
    values = {"description": 'description = "x"', "method": 'method = "mse"'}
    values[line.split()[0]] = line
    write(elsewhere / "r.toml", "\n".join(values.values()))
    with pytest.raises(ConfigError, match=r"\br\b"):
        load_recipe("r.toml")


@pytest.mark.parametrize(
    "text",
    [
        'backend = "tensorflow"',
        "backend = 3",
        'backend = "tensorrt_rtx"',
        'backend = "tensorrt_rtx"\ncompute_capability = "89"',
        'backend = "tensorrt_rtx"\ncompute_capability = "8.9 "',
        'backend = "tensorrt_rtx"\ncompute_capability = 8.9',
        'backend = "onnxruntime"\ncompute_capability = "8.9"',
    ],
)
def test_a_target_with_a_bad_value_is_refused(elsewhere: Path, text: str) -> None:
    write(elsewhere / "t.toml", 'description = "x"\n' + text)
    with pytest.raises(ConfigError, match=r"\bt\b"):
        load_target("t.toml")


def test_the_automatic_target_is_this_machines_gpu_or_its_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for capability, name in ((None, "cpu"), ("8.9", "rtx-4090"), ("7.5", "rtx-2080-ti")):
        monkeypatch.setattr(targets, "detect_compute_capability", lambda c=capability: c)
        assert resolve_target("auto").name == name
    monkeypatch.setattr(targets, "detect_compute_capability", lambda: "3.5")
    with pytest.raises(ConfigError, match=r"compute capability 3\.5") as caught:
        resolve_target("auto")
    assert "--target cpu" in (caught.value.hint or "")


def test_detecting_a_gpu_never_fails() -> None:
    capability = targets.detect_compute_capability()
    assert capability is None or re.fullmatch(r"\d+\.\d", capability)


@dataclass(frozen=True)
class Thing:
    """A kind of entry that only this test knows."""

    name: str
    size: int = 1


def test_any_dataclass_can_be_a_kind_of_entry(elsewhere: Path) -> None:
    write(elsewhere / "things" / "b.toml", "size = 2")
    write(elsewhere / "things" / "a.toml", "")
    write(elsewhere / "things" / "c.txt", "not ours")
    assert list_entries(Thing, "things") == (Thing("a"), Thing("b", 2))
    assert load_entry(Thing, "things", "b") == Thing("b", 2)
    with pytest.raises(ConfigError, match="no thing named 'c'"):
        load_entry(Thing, "things", "c")


def test_a_file_that_is_no_text_is_refused(elsewhere: Path) -> None:
    (elsewhere / "r.toml").write_bytes(b"\xff\xfe\x00")
    (elsewhere / "d.toml").mkdir()
    for name in ("r.toml", "d.toml"):
        with pytest.raises(ConfigError, match=name):
            read_toml(elsewhere / name)


def test_shipped_data_is_found_from_any_directory(elsewhere: Path) -> None:
    assert find("calibration/recipes").resolve() == REPOSITORY / "calibration" / "recipes"
    shutil.copytree(REPOSITORY / "engines" / "targets", elsewhere / "engines" / "targets")
    assert find("engines/targets").resolve() == (elsewhere / "engines" / "targets").resolve()
    assert search_path("resnet_edge/assets") == [REPOSITORY / "resnet_edge" / "assets"]
    with pytest.raises(ConfigError, match="missing from this installation"):
        find("engines/nothing")
