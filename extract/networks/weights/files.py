"""Reading files of weights that may be anything: nothing in them runs, and what is read is bounded beforehand.

Two formats: safetensors, and what `torch.save` writes (zip archives, and the older plain stream). The latter holds a
pickle. torch reads it with `weights_only=True`, which builds tensors and containers and calls nothing else; before
that the size of the pickle is bounded and a zip must store its members as they are, so that a small file cannot grow.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moodfuse.cache.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LFS_MAGIC = b"version https://git-lfs"
MAX_FILE_BYTES = 400 << 20
"""The largest published file, torchvision's swin3d_b, has 364 million bytes."""
MAX_PICKLE_BYTES = 1 << 20
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, names of the storages


class WeightsError(InputError):
    """Weights are unknown, unreadable, or those of another network."""


def file_kind(path: Path) -> str:
    """``safetensors``, ``torch`` or ``hdf5``, told by content.

    Raises
    ------
    WeightsError
        If it is none of them, empty, too large, or cannot be read.
    """
    try:
        if not path.is_file():
            found = (
                "a folder" if path.is_dir() else "no such file" if not path.exists() else "not a regular file"
            )
            raise WeightsError(
                f"{path}: {found}; expected a weights file: safetensors, PyTorch, or Keras 2 HDF5"
            )
        size = path.stat().st_size
        with open(path, "rb") as stream:
            start = stream.read(32)
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot read the weights: {error.strerror or error}; check the path"
        ) from error
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"{path}: {size / 1e6:.0f} MB; no network here has weights over {MAX_FILE_BYTES / 1e6:.0f}"
        )
    if start.startswith(HDF5_MAGIC):
        return "hdf5"
    if start[8:9] == b"{":  # a length of 8 bytes, then JSON
        return "safetensors"
    if start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return "torch"
    hints = {
        b"": "it is empty",
        LFS_MAGIC: "it is a Git LFS pointer, not the weights",
        b"<": "it is a web page",
    }
    hint = next(
        (text for magic, text in hints.items() if start.lstrip()[: len(magic)] == magic and magic), None
    )
    what = hint or ("it is empty" if not start else f"it begins with {start[:8]!r}")
    raise WeightsError(
        f"{path}: not a weights file: {what}; expected safetensors, a PyTorch state dict, or the Keras 2 HDF5 file of "
        "the music tagger; download it again"
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Arrays and metadata of a safetensors file.

    Raises
    ------
    WeightsError
        If it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); it may be cut short: fetch or write it again"
        ) from error


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without its arrays and without torch; empty where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return {}


def read_torch(path: Path) -> dict[str, Tensor]:
    """Arrays of a state dict that `torch.save` wrote, alone or under the key ``state_dict``.

    Raises
    ------
    WeightsError
        If it is damaged, would run code, or holds anything but dense arrays by name.
    """
    import torch

    with open(
        path, "rb"
    ) as stream:  # torch looks at the start too; a zip at the end of a pickle is no archive to it
        archived = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    _bound_archive(path) if archived else _bound_stream(path)
    try:
        with open(path, "rb") as stream:  # given a path, torch.load chooses the format by the suffix
            content = torch.load(stream, weights_only=True, mmap=False, map_location="cpu")
    except Exception as error:
        raise WeightsError(
            f"{path}: not a PyTorch state dict that can be read safely: {_reason(error)}; "
            "expected tensors by name and nothing else; fetch it again from its publisher"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return _dense(path, content)


def _reason(error: Exception) -> str:
    """What went wrong, in a line, from a message of torch that has many."""
    text = str(error)
    if found := re.search(r"nsupported (?:global: )?GLOBAL (\S+)", text):
        return f"it asks for {found[1]}, which could run code"
    if found := re.search(r"WeightsUnpickler error: ([^\n]*)", text):
        text = found[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")


def _bound_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsError(f"{path}: a damaged zip archive ({error}); fetch it again") from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError(
            f"{path}: a compressed zip archive; PyTorch stores arrays as they are; this is no state dict"
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise WeightsError(
            f"{path}: a zip archive whose members claim more bytes than the file has; it is not read"
        )
    pickles = [member for member in members if member.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        found = f"{len(pickles)} of them" if len(pickles) != 1 else f"{pickles[0].file_size} bytes"
        raise WeightsError(
            f"{path}: expected one data.pkl of at most {MAX_PICKLE_BYTES} bytes, found {found}"
        )


def _bound_stream(path: Path) -> None:
    with open(path, "rb") as stream:
        start = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
    try:
        for _ in range(_LEGACY_PICKLES):
            for _operation in pickletools.genops(start):  # reads, and executes nothing
                pass
    except (ValueError, AttributeError, UnicodeError, IndexError) as error:
        raise WeightsError(
            f"{path}: a damaged PyTorch file ({error}), or one whose names take over {MAX_PICKLE_BYTES} bytes; "
            "fetch it again"
        ) from error


def _dense(path: Path, content: Any) -> dict[str, Tensor]:
    import torch

    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds {type(content).__name__}, expected a state dict: tensors by name")
    arrays: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise WeightsError(
                f"{path}: {name!r} is {type(value).__name__}, expected a tensor; expected a flat state dict"
            )
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise WeightsError(
                f"{path}: {name} is a {value.layout} tensor on {value.device}, expected a dense one"
            )
        if (
            not value.is_contiguous()
            or value.untyped_storage().nbytes() < value.numel() * value.element_size()
        ):
            raise WeightsError(
                f"{path}: {name} repeats or skips its bytes (stride {value.stride()}), expected dense"
            )
        arrays[name] = value.detach()
    return arrays
