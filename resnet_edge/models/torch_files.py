"""Files made by ``torch.save``: what they claim is checked before torch reads them.

``torch.load(weights_only=True)`` runs no foreign code, but it allocates whatever a file asks for.
"""

from __future__ import annotations

import argparse
import io
import mmap
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from resnet_edge.errors import CheckpointError
from resnet_edge.models.pickles import SCALAR_FUNCTIONS, RefusedPickleError, Storage, walk

__all__ = ["LEGACY_MAGIC", "ZIP_MAGIC", "read_torch_file"]

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80"  # first byte of every pickle since protocol 2
_LEGACY_FIRST = 0x1950A86A20F9469CFC6C  # first object of a file of torch before 1.6
_LEGACY_PICKLES = 5  # that number, protocol, system, content, names of the storages
_WAY_OUT = (
    "if you trust it, load it where it was made and save only the weights: "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)


def read_torch_file(path: Path) -> Any:
    """Read a file made by ``torch.save``.

    Returns:
        What was saved: usually nested dictionaries with tensors.

    Raises:
        CheckpointError: It is a TorchScript archive, needs code, claims more than it holds, or is
            truncated.
    """
    with path.open("rb") as stream:
        zipped = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    try:
        if zipped:
            _check_zip(path)
        else:
            _check_legacy(path)
        return _load(path, mapped=zipped)
    except CheckpointError:
        raise
    except RefusedPickleError as error:
        raise CheckpointError(f"{path} was not read: {error}", hint=_WAY_OUT) from error
    except Exception as error:  # malformed bytes raise whatever they happen to run into
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint: {_reason(error)}",
            hint="the file is truncated or of another kind; download or save it again",
        ) from error


def _load(path: Path, *, mapped: bool) -> Any:
    """Let torch read a checked file; a zip is mapped, so that nothing unused is read."""
    import torch

    with warnings.catch_warnings(), torch.serialization.safe_globals(_scalars_and_options()):
        warnings.simplefilter("ignore")  # about pickle protocols; the outcome says it all
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _scalars_and_options() -> list[Any]:
    """Return what old training loops saved beside the weights: NumPy scalars, argparse options."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return [*((scalar, name) for name in SCALAR_FUNCTIONS), np.dtype, argparse.Namespace, *dtypes]


def _reason(error: Exception) -> str:
    """Return the first sentence; torch goes on with advice to load the file unsafely."""
    text = str(error) or type(error).__name__
    if text.startswith("Weights only load failed"):
        return "it is not what torch.save writes"
    return text.partition("\n")[0].partition(". ")[0]


def _check_zip(path: Path) -> None:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "constants.pkl" in members:
            raise CheckpointError(
                f"{path} is a TorchScript archive: a program, not a checkpoint", hint=_WAY_OUT
            )
        if "data.pkl" not in members:
            raise CheckpointError(
                f"{path} is a zip file, but not one that torch.save made",
                hint="unpack it and pass the checkpoint inside",
            )
        for info in members.values():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise RefusedPickleError(f"{info.filename!r} claims to be larger than the file")
        _, storages = walk(io.BytesIO(archive.read(members["data.pkl"])))
    for storage in storages:
        record = members.get(f"data/{storage.key}")
        if record is None or storage.nbytes > record.file_size:
            raise RefusedPickleError(f"storage {storage.key} claims more than the file holds")


def _check_legacy(path: Path) -> None:
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        storages: list[Storage] = []
        for index in range(_LEGACY_PICKLES):
            value, asked = walk(content)
            if index == 0 and value != _LEGACY_FIRST:
                raise RefusedPickleError("it is a plain pickle, not what torch.save writes")
            storages += asked
        # Every storage is preceded by its number of items.
        claimed = sum({s.key: s.nbytes + 8 for s in storages}.values())
        if claimed > len(content) - content.tell():
            raise RefusedPickleError("its tensors claim more than the file holds")
