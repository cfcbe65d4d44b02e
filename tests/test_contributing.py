"""What CONTRIBUTING.md names is there, and the hooks check what `make lint` checks."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
FENCED = re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL)
INLINE = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
NAMED_IN = re.compile(r"(\.?[\w-]+/|\.?[\w-]+\.(py|toml|md|json|txt|ya?ml)$|\.importlinter$)")


def paths() -> list[str]:
    """Return every word in code that looks like a path of the repository."""
    words = " ".join([*INLINE, *FENCED]).split()
    return sorted({w for w in words if NAMED_IN.match(w) and not w.startswith(".venv")})


def test_paths_are_found() -> None:
    assert {"resnet_edge/calibrate/ranges.py", "engines/targets/", ".importlinter"} < set(paths())


@pytest.mark.parametrize("path", paths())
def test_every_path_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_every_make_target_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join([*INLINE, *FENCED])))
    assert {"lint", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_every_module_that_is_run_exists() -> None:
    for module in re.findall(r"-m (tests\.[\w.]+)", TEXT):
        assert (REPOSITORY / (module.replace(".", "/") + ".py")).is_file()


def test_the_hooks_run_the_very_commands_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"entry: (.+)", hooks) == commands
    for command in commands:
        assert f"`{command}`" in TEXT
