"""A pickle is walked through, never executed; what plain weights do not need is refused."""

from __future__ import annotations

import io
import pickle
import pickletools
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.errors import CheckpointError
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from resnet_edge.models.pickles import RefusedPickleError, Storage, walk
from tests.conftest import processor_seconds, require

torch = require("torch")

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.models.resnet import ResNet

P2 = b"\x80\x02"


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def storage(items: int, kind: str = "FloatStorage") -> bytes:
    """The reference to a storage, as torch.save writes it."""
    return (
        b"("
        + text("storage")
        + name("torch", kind)
        + text("0")
        + text("cpu")
        + number(items)
        + b"tQ"
    )


def tensor(items: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(v) for v in values) + b"t"

    arguments = storage(items) + number(offset) + numbers(size) + numbers(stride)
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def test_storages_are_listed_with_their_sizes() -> None:
    _, found = walk(io.BytesIO(P2 + tensor(12, 0, (3, 4), (4, 1)) + b"."))
    assert found == [Storage("0", 12, 4)]
    assert found[0].nbytes == 48
    for kind, size in (("DoubleStorage", 8), ("HalfStorage", 2), ("ByteStorage", 1)):
        assert walk(io.BytesIO(P2 + storage(1, kind) + b"."))[1] == [Storage("0", 1, size)]


@pytest.mark.parametrize(
    ("items", "offset", "size", "stride"),
    [
        (12, 1, (3, 4), (4, 1)),
        (12, 0, (4, 4), (4, 1)),
        (12, 0, (2, 2), (11, 1)),
        (12, -1, (3, 4), (4, 1)),
        (12, 0, (3, -4), (4, 1)),
        (12, 0, (3, 4), (4, -1)),
        (0, 0, (), ()),
        (12, 1 << 62, (1,), (1,)),
    ],
)
def test_a_tensor_that_looks_beyond_its_storage_is_refused(
    items: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(RefusedPickleError):
        walk(io.BytesIO(P2 + tensor(items, offset, size, stride) + b"."))


@pytest.mark.parametrize(
    "content",
    [
        name("posix", "system") + text("true") + b"\x85R",
        name("builtins", "eval") + text("1") + b"\x85R",
        name("builtins", "bytearray") + number(1 << 60) + b"\x85R",
        name("torch", "FloatTensor") + number(1 << 60) + b"\x85R",
        name("torch._utils", "_rebuild_wrapper_subclass") + b")R",
        name("torch._utils", "_rebuild_meta_tensor_no_storage") + b")R",
        name("numpy", "dtype") + text("V2000000000") + b"\x85R",
        name("_codecs", "encode") + text("a") + text("idna") + b"\x86R",
        b"(" + text("module") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(1)
        + b"tQ",
        storage(-1),
        text("x") + b"Q",
        text("a") + text("b") + b"\x85R",  # calling what is no function
        b"}" + b")" + b"\x85" + number(1) + b"s",  # a tuple as a key
        b"c__builtin__\nprint\n",
        b"\x96" + (1 << 40).to_bytes(8, "little"),  # BYTEARRAY8
        b"P0\n",
        b"i__main__\nA\n",
    ],
    ids=repr,
)  # fmt: skip
def test_what_plain_weights_do_not_need_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises((RefusedPickleError, ValueError, EOFError)):
        walk(io.BytesIO(P2 + content + b"."))
    path = tmp_path / "model.pt"
    first = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
    path.write_bytes(first + pickle.dumps({}, protocol=2) + P2 + content + b"." + P2 + b"].")
    with processor_seconds(5), pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_bomb_of_nested_keys_is_refused_at_once() -> None:
    nested = b")" + b"q\x00h\x00\x86" * 60
    with processor_seconds(2), pytest.raises(RefusedPickleError):
        walk(io.BytesIO(P2 + b"}" + nested + b"Ns."))


@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_an_exception(data: bytes) -> None:
    with processor_seconds(5):
        try:
            walk(io.BytesIO(P2 + data))
        except (MemoryError, SystemError):
            raise
        except Exception:
            pass


OPCODES = sorted(
    {op.code.encode("latin1") for op in pickletools.opcodes if op.arg is None} - {b"."}
)


@given(data=st.data())
def test_a_hostile_pickle_inside_a_checkpoint_gives_a_model_or_our_error(
    tmp_path: Path, tiny_resnet: ResNet, data: st.DataObject
) -> None:
    """Opcodes, numbers and names are put into and taken out of a real file's pickle."""
    buffer = io.BytesIO()
    torch.save(tiny_resnet.state_dict(), buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue()
    begin = content.index(b"}q\x00(X") if b"}q\x00(X" in content else 60
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(begin, begin + 3000))
        piece = data.draw(
            st.sampled_from(OPCODES)
            | st.integers(-5, 1 << 62).map(number)
            | st.sampled_from([name("torch", "LongStorage"), storage(1 << 50), text("fc.bias")])
        )
        cut = data.draw(st.integers(0, 8))
        content = content[:at] + piece + content[at + cut :]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with processor_seconds(20), suppress(CheckpointError):
        load_model(read_checkpoint(path))
