"""Files of arrays that moodfuse writes: safetensors with one metadata key, so that equal content is equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.identity import canonical_json
from cache.parts import write_aside

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "moodfuse"


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, aside and then moved into place; equal content gives equal bytes."""
    from safetensors.torch import save_file

    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_aside(path, lambda file: save_file(content, file, metadata={METADATA_KEY: canonical_json(dict(metadata))}))


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save_weights` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
