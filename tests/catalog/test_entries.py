"""Recipes, targets, and how both are found."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from resnet_edge.calibrate.ranges import METHODS
from resnet_edge.catalog.automatic import resolve_target
from resnet_edge.catalog.entries import list_entries, load_entry, read_toml
from resnet_edge.catalog.recipes import DEFAULT_RECIPE, Recipe, list_recipes, load_recipe
from resnet_edge.catalog.shipped import find, search_path
from resnet_edge.catalog.targets import list_targets, load_target
from resnet_edge.device.jetpack import RELEASES
from resnet_edge.device.versions import within
from resnet_edge.errors import ConfigError
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECIPES = sorted((REPOSITORY / "calibration" / "recipes").glob("*.toml"))
TARGETS = sorted((REPOSITORY / "engines" / "targets").glob("*.toml"))
GPU = 'backend = "tensorrt"\ncompute_capability = "8.9"\n'
ORIN = 'backend = "tensorrt"\ncompute_capability = "8.7"\nsoc = "tegra234"\nmodules = ["p1"]\n'
ANY_LOADER = pytest.mark.parametrize(
    ("load", "folder"),
    [(load_recipe, "calibration/recipes"), (load_target, "engines/targets")],
    ids=["recipe", "target"],
)
SOURCED = {
    "compute_capability", "dla_cores", "memory_gb", "bandwidth_gb_s", "int8_tops", "fp16_tflops",
    "workspace_mb", "modules", "gpus", "power_modes", "[[software]]", "[super_modes]",
}  # fmt: skip
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
    text = path.read_text()
    for line in text.splitlines():
        if re.split(" = |  #", line)[0] in SOURCED:
            assert re.search(r"  # \w", line), f"{line!r} has no source"
        assert len(line) <= 110
    if target.compute_capability:
        assert target.memory_gb
        assert target.bandwidth_gb_s
        assert target.software
        assert target.modules or target.gpus
        for peak in ("int8_tops", "fp16_tflops"):
            stated = getattr(target, peak) is not None
            assert stated != (f"\n# {peak}: " in text), f"{peak}: a number, or why there is none"


def test_peaks_are_dense_and_in_the_usual_proportion() -> None:
    for target in list_targets():
        if target.int8_tops and target.fp16_tflops:
            assert target.int8_tops / target.fp16_tflops == pytest.approx(2, rel=0.02)
        if gained := target.super_modes:
            assert gained.int8_tops / gained.fp16_tflops == pytest.approx(2, rel=0.02)
            assert target.int8_tops
            assert gained.int8_tops > target.int8_tops


def test_the_headline_of_every_orin_follows_from_its_dense_peak() -> None:
    """Twice the dense peak of the GPU, and what the DLA adds, must give the advertised number."""
    headline = {  # TOPS, sparse, with DLA (NVIDIA's Jetson module comparison)
        "jetson-orin-nano-4gb": 20, "jetson-orin-nano-8gb": 40, "jetson-orin-nx-8gb": 70,
        "jetson-orin-nx-16gb": 100, "jetson-agx-orin-32gb": 200, "jetson-agx-orin-64gb": 275,
    }  # fmt: skip
    for name, total in headline.items():
        target = load_target(name)
        assert target.int8_tops
        rest = total - 2 * target.int8_tops
        assert rest == pytest.approx(0, abs=1.2) if not target.dla_cores else 15 < rest < 110


def test_parts_and_gpu_names_belong_to_one_target_or_are_told_apart_by_memory() -> None:
    seen: dict[tuple[str, int | None], str] = {}
    for target in list_targets():
        for name in (*target.modules, *target.gpus):
            other = seen.setdefault((name, target.memory_gb), target.name)
            assert other == target.name


def test_shipped_software_follows_the_table_of_jetpacks() -> None:
    for target in list_targets():
        for range_ in target.software:
            if range_.jetpack is None:
                continue
            releases = [r for r in RELEASES if within(r.jetpack, *range_.jetpack)]
            assert releases or range_.tensorrt[0] == "11.4.1"
            brought = [r for r in releases if within(r.tensorrt, *range_.tensorrt)]
            assert brought or range_.tensorrt[0] == "11.4.1", f"{target.name}: {range_}"


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
        GPU + "memory_gb = 8.5",
        GPU + "memory_gb = 0",
        GPU + 'memory_gb = "8"',
        GPU + "memory_gb = true",
        GPU + "bandwidth_gb_s = -1",
        GPU + "int8_tops = inf",
        GPU + "int8_tops = nan",
        GPU + "workspace_mb = 0",
        GPU + "dla_cores = 1",
        GPU + 'gpus = "RTX"',
        GPU + "gpus = [1]",
        GPU + 'soc = "tegra234"',
        GPU + "software = 8",
        GPU + '[[software]]\ntensorrt = ["10.3"]',
        GPU + '[[software]]\ntensorrt = ["10.3", "10.0"]',
        GPU + '[[software]]\ntensorrt = ["new", "newer"]',
        GPU + '[[software]]\ntensorrt = ["8.5", "11"]\nopset_max = 11',
        GPU + '[[software]]\ntensorrt = ["8.5", "11"]\ndla = true',
        GPU + '[[software]]\ntensorrt = ["8.5", "11"]\nwhat = 1',
        GPU + 'power_modes = [{ id = 0, name = "MAXN" }]',
        ORIN + 'power_modes = [{ id = 0, name = "A" }, { id = 0, name = "B" }]',
        ORIN + 'power_modes = [{ id = "0", name = "A" }]',
        ORIN + "power_modes = [0]",
        ORIN + "dla_cores = 3",
        ORIN + 'gpus = ["RTX"]',
        ORIN + '[super_modes]\njetpack = "6.2"',
        'backend = "onnxruntime"\ncompute_capability = "8.9"',
    ],
)
def test_a_target_with_a_bad_value_is_refused(elsewhere: Path, text: str) -> None:
    write(elsewhere / "t.toml", 'description = "x"\n' + text)
    with pytest.raises(ConfigError, match=r"^t\.toml: ") as caught:
        load_target("t.toml")
    key = re.split(r"[=\]]", text.splitlines()[-1])[0].strip(" [")
    assert key in caught.value.message or key in ("backend", "dla", "jetpack", "soc", "gpus")


def test_a_good_target_with_everything_loads(elsewhere: Path) -> None:
    write(elsewhere / "t.toml", (REPOSITORY / TARGETS[0]).with_name(
        "jetson-agx-orin-64gb.toml").read_text())  # fmt: skip
    target = load_target("t.toml")
    assert target.software_of(jetpack="6.2.1")[0].tensorrt == ("10.3.0", "10.7.0")
    assert [s.dla for s in target.software_of(jetpack="7.2.2")] == [False, True]
    assert target.software_of(tensorrt="9.0") == ()
    assert len(target.software_of()) == len(target.software)
    assert target.opset_max("8.5.2") == 17
    assert target.workspace_bytes == 8 << 30
    assert load_target("jetson-nano").workspace_bytes == 512 << 20
    assert load_target("cpu").workspace_bytes is None
    assert load_target("cpu").opset_max("1.24") is None


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
