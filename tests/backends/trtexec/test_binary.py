from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.trtexec import binary
from resnet_edge.backends.trtexec.binary import (
    ask_trtexec,
    find_trtexec,
    locate_trtexec,
    parse_help,
    parse_version,
)
from resnet_edge.doctor.examined import look
from resnet_edge.errors import BackendUnavailableError
from tests.emulation.trtexec.install import VERSIONS, install, listed_flags

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("version", VERSIONS)
def test_version_and_options_come_from_the_help(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(install(tmp_path, version).parent))
    found = find_trtexec()
    assert found.version == version
    assert found.flags == listed_flags(version)


def test_the_place_of_jetpack_is_found_without_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install(tmp_path, "8.5.2")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(binary, "PLACES", (str(path),))
    assert find_trtexec().path == path


@pytest.mark.parametrize("place", binary.PLACES)
def test_the_places_are_looked_at_under_another_root_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("PATH", str(install(tmp_path / "path", "10.3.0").parent))
    assert locate_trtexec(tmp_path) is None  # PATH is that of this machine
    assert look(tmp_path).trtexec is None
    path = install((tmp_path / place).parent, "8.5.2")
    assert locate_trtexec(tmp_path) == path
    assert look(tmp_path).trtexec == ask_trtexec(path)
    path.write_text("#!/bin/sh\nexit 3\n")
    broken = look(tmp_path).trtexec
    assert isinstance(broken, BackendUnavailableError)
    assert broken.message == f"{path} does not work: it ended with status 3 and no word why"


def test_path_goes_before_the_place_of_jetpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(install(tmp_path / "new", "10.3.0").parent))
    monkeypatch.setattr(binary, "PLACES", (str(install(tmp_path / "old", "8.5.2")),))
    assert find_trtexec().version == "10.3.0"


def test_none_at_all_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binary, "PLACES", (str(tmp_path / "none"),))
    with pytest.raises(BackendUnavailableError, match="not on PATH") as caught:
        find_trtexec()
    assert "TensorRT" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "status 1 and no word"),
        ("echo hello", "hello"),
        (
            "echo 'trtexec: error while loading shared libraries: libnvinfer.so.8: cannot open "
            "shared object file: No such file or directory' >&2; exit 127",
            "libnvinfer.so.8 is missing",
        ),
        ("echo '&&&& RUNNING TensorRT.trtexec [TensorRT v7103] # x'", "lacks .*--exportOutput"),
        ("kill -SEGV $$", "SIGSEGV"),
    ],
)
def test_an_executable_that_is_no_trtexec_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    path = tmp_path / "trtexec"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BackendUnavailableError, match=message) as caught:
        find_trtexec()
    assert str(path) in caught.value.message


def test_a_file_for_another_machine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trtexec"
    path.write_bytes(b"\x7fELF not for this machine")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match="cannot be started"):
        find_trtexec()


def test_an_executable_that_was_replaced_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(install(tmp_path, "8.5.2").parent))
    assert find_trtexec().version == "8.5.2"
    install(tmp_path, "10.13.3")
    assert find_trtexec().version == "10.13.3"


@pytest.mark.parametrize(
    ("number", "version"),
    [("8201", "8.2.1"), ("8502", "8.5.2"), ("100300", "10.3.0"), ("101303", "10.13.3"),
     ("110401", "11.4.1")],
)  # fmt: skip
def test_the_number_in_the_banner_is_read_as_its_generation_writes_it(
    number: str, version: str
) -> None:
    banner = f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] [b36] # trtexec --help\n"
    assert parse_version(f"warning: something first\n{banner}") == version


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_breaks_the_readers(text: str) -> None:
    assert parse_version(text) is None
    assert all(flag.startswith("--") for flag in parse_help(text))


@given(
    st.lists(st.from_regex(r"--[a-zA-Z]\w{0,20}", fullmatch=True), unique=True),
    st.sampled_from(["", "=N", "=<file>", "=spec"]),
)
def test_options_count_only_where_they_begin_a_line(flags: list[str], value: str) -> None:
    lines = [f"  {flag + value:<30} text, see --other or\n{'':30}--another of it" for flag in flags]
    assert parse_help("\n".join(["=== Options ===", *lines])) == set(flags)
