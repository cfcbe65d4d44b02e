"""The wheel, built through the sdist, holds the code and the shipped data and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY, require

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("build")
    require("hatchling")
    output = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(REPOSITORY)],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(output.glob("*.whl"))


def test_the_wheel_holds_every_module_and_all_shipped_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "resnet_edge", "calibration/recipes", "engines/targets",
         "calibration/images"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for path in tracked:
        inside = path if path.startswith("resnet_edge/") else f"resnet_edge/_data/{path}"
        assert inside in names


def test_the_wheel_holds_nothing_generated(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    allowed = ("resnet_edge/", "resnet_edge-")
    assert all(name.startswith(allowed) for name in names)
    generated = (".engine", ".onnx", ".pt", ".pyc", "bundle.json")
    assert not [name for name in names if name.endswith(generated)]


def test_the_licences_travel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert "resnet_edge/_data/calibration/images/fashion-mnist/LICENSE" in names


def test_the_sdist_is_small_and_without_outputs(wheel: Path) -> None:
    archive = next(wheel.parent.glob("*.tar.gz"))
    with tarfile.open(archive) as content:
        names = content.getnames()
    assert not [n for n in names if "/runs/" in n or "/builds/" in n or "/.venv/" in n]
    assert archive.stat().st_size < 12e6


def test_a_link_to_the_package_elsewhere_in_the_tree_changes_nothing(tmp_path: Path) -> None:
    require("hatchling")
    tracked = [
        path for path in subprocess.run(
            ["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout.split()
        if not path.startswith(".") and (REPOSITORY / path).is_file()
    ]  # fmt: skip
    tree = tmp_path / "tree"
    for path in [*tracked, ".gitignore"]:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, tree / path)
    for folder in (".cache", "aside", "engines/builds"):  # the first and the last are ignored
        (tree / folder).mkdir(exist_ok=True)
        (tree / folder / "linked").symlink_to(tree / "resnet_edge")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path / "dist")],
        cwd=tree, check=True, capture_output=True,
    )  # fmt: skip
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert set(tracked) <= names
    assert not [name for name in names if "linked" in name]


def test_the_installed_wheel_finds_its_data_from_any_directory(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from resnet_edge.catalog.recipes import list_recipes;"
        "from resnet_edge.catalog.targets import list_targets;"
        "from resnet_edge.catalog.shipped import CHECKPOINT, IMAGES, find;"
        "import resnet_edge; print(resnet_edge.__file__);"
        "assert len(list_recipes()) >= 4 and len(list_targets()) >= 5;"
        "print(find(CHECKPOINT), find(IMAGES))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
    )  # fmt: skip
    assert all(str(tmp_path / "site") in part for part in run.stdout.split())
