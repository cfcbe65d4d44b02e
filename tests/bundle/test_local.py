"""Trust lies outside of the bundle: in the user's own state folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from resnet_edge.bundle.local import (
    check_trust,
    find_path,
    is_own_engine,
    remember_engine,
    remember_path,
)
from resnet_edge.errors import BundleError, EngineMismatchError

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = "ab" * 32


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "resnet-edge"


def test_an_engine_that_was_built_here_is_trusted(tmp_path: Path) -> None:
    remember_engine(ENGINE)
    assert is_own_engine(ENGINE)
    check_trust(tmp_path / "e", ENGINE, trusted=False)


def test_any_other_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    remember_engine("cd" * 32)
    with pytest.raises(EngineMismatchError, match="was not built here") as caught:
        check_trust(tmp_path / "e", ENGINE, trusted=False)
    assert "resnet-edge build" in str(caught.value.hint)
    assert "--trust-engine" in str(caught.value.hint)


def test_the_user_can_vouch_for_it_and_that_is_not_remembered(tmp_path: Path) -> None:
    check_trust(tmp_path / "e", ENGINE, trusted=True)
    assert not is_own_engine(ENGINE)


@pytest.mark.parametrize("place", ["file", "kind", "folder"])
@pytest.mark.parametrize("bit", [0o020, 0o002])
def test_a_record_that_others_could_have_written_does_not_count(
    state: Path, place: str, bit: int
) -> None:
    remember_engine(ENGINE)
    path = {"file": state / "engines" / f"{ENGINE}.json", "kind": state / "engines"}.get(
        place, state
    )
    path.chmod(path.stat().st_mode | bit)
    assert not is_own_engine(ENGINE)


def test_a_record_that_is_a_link_does_not_count(state: Path, tmp_path: Path) -> None:
    remember_engine("cd" * 32)
    elsewhere = tmp_path / "x.json"
    elsewhere.write_text("{}")
    elsewhere.chmod(0o600)
    (state / "engines" / f"{ENGINE}.json").symlink_to(elsewhere)
    assert is_own_engine("cd" * 32)
    assert not is_own_engine(ENGINE) or os.name == "nt"


def test_records_are_the_users_alone_whatever_the_umask(state: Path) -> None:
    before = os.umask(0o002)
    try:
        remember_engine(ENGINE)
    finally:
        os.umask(before)
    assert is_own_engine(ENGINE)
    assert (state / "engines" / f"{ENGINE}.json").stat().st_mode & 0o077 == 0


def test_where_a_file_lies_is_found_while_it_lies_there(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.touch()
    remember_path("checkpoints", ENGINE, file)
    assert find_path("checkpoints", ENGINE) == file
    assert find_path("images", ENGINE) is None
    file.unlink()
    assert find_path("checkpoints", ENGINE) is None


@pytest.mark.parametrize("name", ["", "../x", "AB" * 32, "ab" * 31])
def test_what_is_no_hash_names_no_file(name: str) -> None:
    with pytest.raises(BundleError, match="not a SHA-256"):
        is_own_engine(name)


def test_a_state_folder_that_cannot_be_written_is_a_warning(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state.parent.mkdir(parents=True)
    state.write_text("a file in its place")
    remember_engine(ENGINE)
    assert "not remembered" in caplog.text
    assert not is_own_engine(ENGINE)
