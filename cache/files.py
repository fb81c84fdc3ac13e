"""Files written whole or not at all, and read with care: what other packages use of `cache.storage`."""

from moodfuse.cache.storage.files import (
    discard,
    open_regular,
    read_regular,
    set_aside,
    sync_folder,
    temporaries,
    write_aside,
    write_text,
)
from moodfuse.cache.storage.hdf5 import check_array, get_member, open_hdf5, read_array
from moodfuse.cache.storage.json_files import read_json
from moodfuse.cache.storage.weight_files import METADATA_KEY, SEAL, check_sealed, seal_of

__all__ = [
    "METADATA_KEY",
    "SEAL",
    "check_array",
    "check_sealed",
    "discard",
    "get_member",
    "open_hdf5",
    "open_regular",
    "read_array",
    "read_json",
    "read_regular",
    "seal_of",
    "set_aside",
    "sync_folder",
    "temporaries",
    "write_aside",
    "write_text",
]
