"""Open untrusted HDF5 files without reading any other file.

An HDF5 file can link to other files, keep the values of an array in other files, and declare an array that is
far larger than the file. A checksum does not protect against this: the author of a malicious file can write a
matching one. So the links, the storage and the size of an array are checked before its first value is read.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from moodfuse.cache.storage.files import check_regular

MAX_COMPRESSED_BYTES = 1 << 24
"""Maximum bytes of the compressed arrays of a file after decompression; a clip's waveform has 1.9 million."""
MAX_CHUNKS = 1 << 12
MAX_ARRAYS = 100_000
_DTYPE_KINDS = "biufS"
_FILTERS: tuple[list[int], ...] = (
    [],
    [h5py.h5z.FILTER_DEFLATE],
    [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE],
)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a regular HDF5 file for reading, without a lock; `OSError` if it is anything else."""
    check_regular(path)
    with h5py.File(path, "r", locking=False) as file:
        yield file


def get_member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
    """The member of a group; `KeyError` if there is none, `ValueError` if it is not a hard link."""
    link = group.id.links.get_info(name.encode("utf-8", "surrogateescape"))
    if link.type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is a soft or external link, which is not followed; expected an array")
    return group[name]


def check_array(array: object, name: str) -> int:
    """Check that a member is an array of plain values that are all in this file; returns its bytes.

    Raises `ValueError`, with `name`, if it is a group, is stored in another file, has another dtype or filter
    than parts have, or declares more bytes than are stored.
    """
    if not isinstance(array, h5py.Dataset):
        raise ValueError(f"{name} is a group or a type; expected an array")
    properties = array.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(
            f"{name} is stored in another file, which is not read; expected an array in the file itself"
        )
    dtype, shape = array.dtype, array.shape
    if dtype.kind not in _DTYPE_KINDS or not dtype.itemsize or shape is None:
        raise ValueError(f"{name} is {dtype} of shape {shape}; expected an array of numbers or bytes")
    size = math.prod(shape) * dtype.itemsize
    if array.chunks is None:
        stored = array.id.get_storage_size()
        if stored != size:
            raise ValueError(f"{name} of shape {shape} needs {size} bytes, but {stored} are stored")
        return size
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if filters not in _FILTERS:
        raise ValueError(
            f"{name} uses the HDF5 filters {filters}; expected none, or deflate with or without shuffle"
        )
    if size > MAX_COMPRESSED_BYTES:
        raise ValueError(f"{name} has {size} bytes in chunks; expected {MAX_COMPRESSED_BYTES} at most")
    if any(chunk > length for chunk, length in zip(array.chunks, shape, strict=True)):
        raise ValueError(f"{name} is stored in chunks of {array.chunks}, larger than its shape {shape}")
    if _chunk_count(array) > MAX_CHUNKS:
        raise ValueError(f"{name} is stored in {_chunk_count(array)} chunks; expected {MAX_CHUNKS} at most")
    return size


def checked_arrays(file: h5py.File) -> dict[str, h5py.Dataset]:
    """The arrays of a file that has nothing but arrays in its root group, each checked by `check_array`.

    Raises `ValueError` if a member is something else, or the arrays together are larger than the file or than
    `MAX_COMPRESSED_BYTES`.
    """
    if len(file) > MAX_ARRAYS:
        raise ValueError(f"it has {len(file)} arrays; expected {MAX_ARRAYS} at most")
    arrays = {name: get_member(file, name) for name in file}
    sizes = {name: check_array(array, name) for name, array in arrays.items()}
    stored = sum(size for name, size in sizes.items() if arrays[name].chunks is None)
    if stored > file.id.get_filesize():
        raise ValueError(f"its arrays have {stored} bytes, but the file {file.id.get_filesize()}")
    compressed = sum(sizes.values()) - stored
    if compressed > MAX_COMPRESSED_BYTES:
        raise ValueError(
            f"its compressed arrays have {compressed} bytes; expected {MAX_COMPRESSED_BYTES} at most"
        )
    return arrays


def read_array(array: h5py.Dataset) -> np.ndarray:
    """The values of an array that `check_array` has passed.

    A compressed one is decompressed here, since HDF5 would decompress a chunk to the end of its stream,
    however long. Raises `ValueError` if a compressed chunk is missing or not of the declared size.
    """
    if array.compression is None:
        return np.asarray(array[()])
    chunks: list[Any] = []
    array.id.chunk_iter(chunks.append)
    if len(chunks) != _chunk_count(array):
        raise ValueError(f"{array.name} has {len(chunks)} chunks; expected {_chunk_count(array)}")
    values = np.empty(array.shape, array.dtype)
    for chunk in chunks:
        block = _decompress(array, *array.id.read_direct_chunk(chunk.chunk_offset))
        edges = zip(chunk.chunk_offset, block.shape, strict=True)
        target = values[tuple(slice(start, start + size) for start, size in edges)]
        target[...] = block[tuple(map(slice, target.shape))]  # the last chunks extend beyond the array
    return values


def _decompress(array: h5py.Dataset, skipped_filters: int, data: bytes) -> np.ndarray:
    """The values of one chunk: deflate undone, and HDF5's shuffle (the first bytes of all values first)."""
    size = math.prod(array.chunks) * array.dtype.itemsize
    try:
        raw = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"{array.name}: {error}") from error
    if skipped_filters or len(raw) != size:
        raise ValueError(f"{array.name} has a chunk that does not decompress to {size} bytes")
    values = np.frombuffer(raw, np.uint8)
    if array.shuffle:
        values = values.reshape(array.dtype.itemsize, -1).T.ravel()
    return values.view(array.dtype).reshape(array.chunks)


def _chunk_count(array: h5py.Dataset) -> int:
    return math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
