from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge import files as artifacts
from resnet_edge.errors import BundleError
from resnet_edge.files import (
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
)
from tests.conftest import full_disk

if TYPE_CHECKING:
    from pathlib import Path

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


class WriterError(Exception):
    """What a writer of the tests raises."""


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.tar.gz"
    path.write_text("old")
    return path


def assert_nothing_changed(path: Path) -> None:
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def fail_with(error: BaseException, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_finished_write_replaces_the_old_file_and_leaves_no_other(old_file: Path) -> None:
    with atomic_path(old_file) as temporary:
        temporary.write_text("new")
        assert old_file.read_text() == "old"
    assert old_file.read_text() == "new"
    assert list(old_file.parent.iterdir()) == [old_file]


def test_the_temporary_file_has_the_folder_and_the_suffixes_of_the_destination(
    old_file: Path,
) -> None:
    with atomic_path(old_file) as temporary:
        temporary.write_text("new")
        assert temporary.parent == old_file.parent
        assert temporary.suffixes[-2:] == [".tar", ".gz"]


@pytest.mark.parametrize("error", [WriterError(), KeyboardInterrupt(), SystemExit(1)])
def test_a_writer_that_raises_leaves_the_old_file_and_its_error_passes(
    old_file: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        fail_with(error, old_file)
    assert_nothing_changed(old_file)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"x")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"x"


def test_a_failed_write_removes_the_folders_made_for_it_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(WriterError):
        fail_with(WriterError(), tmp_path / "old" / "a" / "b" / "c.bin")
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    previous = os.umask(mask)
    try:
        write_bytes(tmp_path / "file", b"")
        assert os.umask(mask) == mask
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_no_space_left_is_our_error_with_a_way_out(old_file: Path) -> None:
    def write() -> None:
        with atomic_path(old_file) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x")

    with pytest.raises(BundleError, match="No space left") as caught:
        write()
    assert "free some disk space" in (caught.value.hint or "")
    assert_nothing_changed(old_file)


def test_no_space_left_at_the_flush_to_disk_is_our_error_too(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(BundleError, match="No space left"):
        write_bytes(old_file, b"new")
    assert_nothing_changed(old_file)


def test_a_file_that_cannot_grow_is_our_error(old_file: Path) -> None:
    with full_disk(), pytest.raises(BundleError, match="cannot write"):
        write_bytes(old_file, b"x" * 10_000)
    assert_nothing_changed(old_file)


@pytest.mark.parametrize("destination", ["file/below", "folder"])
def test_a_destination_that_cannot_be_written_is_our_error(
    tmp_path: Path, destination: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(BundleError, match="cannot write") as caught:
        write_bytes(tmp_path / destination, b"x")
    assert "-o" in (caught.value.hint or "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@given(value=JSON)
def test_json_round_trips_and_ends_with_a_line_feed(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert (tmp_path / "value.json").read_bytes().endswith(b"\n")


@given(content=st.binary(max_size=40))
def test_reading_any_bytes_gives_their_json_or_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(content)
    try:
        expected = json.dumps(json.loads(content.decode()))
    except ValueError:
        with pytest.raises(BundleError, match=r"any\.json is not readable"):
            read_json(path)
    else:
        assert json.dumps(read_json(path)) == expected


def test_a_missing_json_file_and_a_folder_are_our_errors(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(BundleError, match="not readable"):
        read_json(tmp_path)


@given(value=st.dictionaries(st.text(), JSON, max_size=6), seed=st.integers())
def test_the_hash_of_a_json_value_does_not_depend_on_the_order_of_keys(
    value: dict[str, Any], seed: int
) -> None:
    keys = list(value)
    random.Random(seed).shuffle(keys)
    assert sha256_json({k: value[k] for k in keys}) == sha256_json(value)


def test_the_hash_of_a_json_value_depends_on_values_types_and_list_order() -> None:
    values: list[Any] = [{"a": 1}, {"a": "1"}, {"a": None}, {"b": 1}, {}, [], [1, 2], [2, 1]]
    assert len({sha256_json(v) for v in values}) == len(values)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_the_hash_of_a_file_is_sha256_of_its_content(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_is_hashed_once_until_anything_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = artifacts._read_sha256
    monkeypatch.setattr(artifacts, "_read_sha256", lambda path: (reads.append(path), read(path))[1])
    path, other = tmp_path / "file", tmp_path / "other"

    def hashed(content: bytes, *, age: float = 60) -> int:
        """Ask three times; say how often the file was read."""
        later = time.time_ns() + int(age * 1e9)
        reads.clear()
        with monkeypatch.context() as context:
            context.setattr(artifacts.time, "time_ns", lambda: later)
            assert {sha256_file(path) for _ in range(3)} == {hashlib.sha256(content).hexdigest()}
        return len(reads)

    path.write_bytes(b"one")
    assert hashed(b"one", age=0) == 3  # what comes next may have the same time stamp
    assert hashed(b"one") == 1
    assert hashed(b"one") == 0
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the inode still tells
    assert hashed(b"two") == 1
    other.write_bytes(b"six")
    other.replace(path)
    assert hashed(b"six") == 1
