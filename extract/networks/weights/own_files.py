"""Files of arrays that moodfuse writes: safetensors with one metadata key, so that equal content is equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moodfuse.cache.digests import canonical_json
from moodfuse.cache.files import METADATA_KEY, SEAL, check_sealed, seal_of, write_aside

if TYPE_CHECKING:
    from torch import Tensor


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors as sealed safetensors, aside and then moved into place; equal content gives equal bytes."""
    from safetensors.torch import save

    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    seal = seal_of(save(content, metadata={METADATA_KEY: canonical_json(dict(metadata))}))
    write_aside(path, save(content, metadata={METADATA_KEY: canonical_json({**metadata, SEAL: seal})}))


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save_weights` wrote.

    Raises
    ------
    DamagedPartError
        If the file is not what was written.
    """
    from safetensors import safe_open

    check_sealed(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
