"""Timings are kept per version and GPU; whatever is wrong with the file only costs time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.backends.tensorrt.timing_cache import TimingCache
from resnet_edge.device.nvidia import Gpu

if TYPE_CHECKING:
    from pathlib import Path

ORIN = Gpu("Orin", "8.7", 64 << 30)


class BuilderConfig:
    """Takes a timing cache as TensorRT does, unless it comes from another version."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.accepts = accepts
        self.data = b"unset"

    def create_timing_cache(self, data: bytes) -> Any:
        return type("Cache", (), {"data": data, "serialize": lambda self: memoryview(self.data)})()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.data and not self.accepts:
            return False
        self.data = cache.data
        return True

    def get_timing_cache(self) -> Any:
        return self.create_timing_cache(self.data + b"+1")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def build(cache: TimingCache, *, accepts: bool = True) -> bytes:
    config = BuilderConfig(accepts=accepts)
    cache.attach(config)
    read = config.data
    cache.keep(config)
    return read


def test_timings_grow_from_build_to_build(home: Path) -> None:
    cache = TimingCache("10.3.0", ORIN)
    assert [build(cache) for _ in range(3)] == [b"", b"+1", b"+1+1"]
    assert cache.path.is_relative_to(home)


def test_versions_and_gpus_do_not_share(home: Path) -> None:
    paths = {
        TimingCache(version, gpu).path
        for version in ("10.3.0", "10.13.3.9")
        for gpu in (ORIN, Gpu("Orin", "8.6", 1), Gpu("NVIDIA A2/x y", "8.6", 1))
    }
    assert len(paths) == 6
    assert all(path.parent == home / "resnet-edge" / "timing" for path in paths)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "text"])
def test_a_damaged_or_foreign_file_is_ignored_with_a_word(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TimingCache("10.3.0", ORIN)
    build(cache)
    content = cache.path.read_bytes()
    other = TimingCache("10.3.0", Gpu("another", "8.7", 1))
    build(other)
    cache.path.write_bytes(
        {
            "truncated": content[:-1],
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "foreign": other.path.read_bytes(),
            "empty": b"",
            "text": b"resnet-edge timing cache 1\nnot json\n",
        }[damage]
    )
    with caplog.at_level(logging.WARNING, "resnet_edge"):
        assert build(cache) == b""
    assert str(cache.path) in caplog.text
    assert build(cache) == b"+1"


def test_timings_that_tensorrt_refuses_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    cache = TimingCache("10.3.0", ORIN)
    build(cache)
    build(cache)
    with caplog.at_level(logging.WARNING, "resnet_edge"):
        assert build(cache, accepts=False) == b""
    assert "does not take" in caplog.text


def test_a_folder_that_cannot_be_written_only_warns(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "resnet-edge").write_text("in the way")
    with caplog.at_level(logging.WARNING, "resnet_edge"):
        assert build(TimingCache("10.3.0", ORIN)) == b""
    assert "timings are not kept" in caplog.text


def test_timings_that_are_not_given_out_only_warn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent:
        def serialize(self) -> None:
            return None

    monkeypatch.setattr(BuilderConfig, "get_timing_cache", lambda _: Silent())
    cache = TimingCache("10.3.0", ORIN)
    with caplog.at_level(logging.WARNING, "resnet_edge"):
        build(cache)
    assert "timings are not kept" in caplog.text
    assert not cache.path.exists()
