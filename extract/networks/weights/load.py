"""Pretrained weights on their way into a network: found, recognised, checked whole, and only then loaded.

Reading is strict. Every array that the trunk needs has to be there, in its shape, float32 and finite; every other array
has to be one that the layout is known to leave behind, or the file is refused and the network stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from moodfuse.cache.digests import file_digest
from moodfuse.extract.networks.weights.files import (
    WeightsError,
    file_kind,
    read_safetensors,
    read_torch,
    safetensors_metadata,
)
from moodfuse.extract.networks.weights.keras import DROPPED, LAYOUT, read_keras
from moodfuse.extract.networks.weights.known import KnownWeights, known_weights, recognise_file
from moodfuse.extract.networks.weights.layouts import (
    COUNTER,
    LAYOUTS,
    OWN,
    default_bn_eps,
    default_preprocessing,
    layer_names,
    other_network,
    recognise,
    strip_prefix,
)
from moodfuse.extract.networks.weights.own_files import save_weights
from moodfuse.extract.networks.weights.provenance import (
    WeightsFacts,
    converted_facts,
    provenance_record,
    read_provenance,
)

if TYPE_CHECKING:
    from torch import Tensor

    from moodfuse.extract.networks.base import Network

__all__ = ["WeightsError", "WeightsFacts", "load_weights", "resolve_weights", "weights_facts"]


def resolve_weights(weights: str | Path, network: str) -> tuple[Path, KnownWeights | None]:
    """The file that a user's name or path stands for; named weights are fetched where they are not there yet.

    Parameters
    ----------
    weights : str or Path
        A name of `known_weights(network)`, or the path of a file.
    network : str
        The network that they are for.

    Returns
    -------
    tuple of Path and KnownWeights or None
        The file, and its entry in the table where a name was given.

    Raises
    ------
    WeightsError
        If it is neither, or the named weights cannot be fetched or fail their check.
    """
    names = known_weights(network)
    if str(weights) in names:
        from moodfuse.extract.networks.weights.fetch import fetch_weights

        known = names[str(weights)]
        return fetch_weights(known), known
    path = Path(weights)
    if path.is_file():
        return path, None
    found = "a folder" if path.is_dir() else "no such file, and no known name"
    raise WeightsError(
        f"{weights}: {found}; expected the path of a weights file for {network}, or one of: "
        f"{', '.join(names) or 'none is known'} (moodfuse weights ls)"
    )


def weights_facts(weights: str | Path, network: str) -> WeightsFacts:
    """What weights are, by name, digest or provenance; only a file that none of these tells of is read for it.

    Raises
    ------
    WeightsError
        As for `resolve_weights` and `load_weights`.
    """
    path, known = resolve_weights(weights, network)
    file_kind(path)
    stat = path.stat()
    return _facts(path, network, known, stat.st_size, stat.st_mtime_ns)


@lru_cache(64)
def _facts(path: Path, network: str, known: KnownWeights | None, size: int, mtime_ns: int) -> WeightsFacts:
    sha256 = _digest(path, size, mtime_ns)
    known = known or recognise_file(path, network)
    if known is not None:
        return WeightsFacts(
            path, sha256, known.layout, known.preprocessing, known.bn_eps, known.name, known.drops
        )
    if file_kind(path) == "safetensors" and (provenance := read_provenance(path, safetensors_metadata(path))):
        return converted_facts(path, sha256, provenance, network)
    from moodfuse.extract.networks import create_network

    return load_weights(create_network(network, num_classes=1), path)


def trunk_names(network: Network) -> list[str]:
    """Names of the arrays that pretrained weights bring: all but those of the replaced layers and the classifier."""
    return [name for name in network.state_dict() if not name.startswith(("classifier.", "replaced."))]


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(64)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    return file_digest(path)


def load_weights(network: Network, weights: str | Path) -> WeightsFacts:
    """Load pretrained weights into a network, leave its classifier new, and mark it as pretrained.

    The trunk has to be in the file, whole. Replaced layers are loaded from a file in our own layout that has them all;
    one that has some of them is refused, and where it has none they stay new. Layers of the old task are left behind,
    and named in what is returned.

    Parameters
    ----------
    network : Network
        Changed in place, only once everything in the file has been checked.
    weights : str or Path
        A name of `known_weights`, or a file: safetensors or PyTorch in any layout of `LAYOUTS` for this network, or the
        Keras 2 HDF5 file of the tagger for `twodmcnn`.

    Returns
    -------
    WeightsFacts
        What was loaded, and which layers were left behind.

    Raises
    ------
    WeightsError
        If the file cannot be read or does not hold what the network needs.
    """
    name = network.spec.name
    path, known = resolve_weights(weights, name)
    own = network.state_dict()
    wanted = {key: own[key] for key in trunk_names(network)}
    if file_kind(path) == "hdf5":
        facts, loaded = _read_tagger(path, network, wanted)
    else:
        facts, loaded = _read_arrays(path, network, known)
        if any(key.startswith("replaced.") for key in loaded):
            wanted |= {key: value for key, value in own.items() if key.startswith("replaced.")}
    _check(path, loaded, wanted, network=name)
    network.load_state_dict({**own, **loaded})
    network.preprocessing = facts.preprocessing
    if facts.bn_eps is not None:
        network.set_bn_eps(facts.bn_eps)
    network.pretrained = True
    return facts


def _read_tagger(
    path: Path, network: Network, wanted: Mapping[str, Tensor]
) -> tuple[WeightsFacts, dict[str, Tensor]]:
    name = network.spec.name
    filters: Tensor | None = getattr(network, "mel_filters", None)
    loaded = read_keras(path, wanted, network=name, filters=None if filters is None else filters.numpy())
    known = recognise_file(path, name)
    facts = WeightsFacts(path, _sha256(path), LAYOUT, network.spec.preprocessing, dropped=DROPPED)
    return replace(facts, known=known.name if known else None), loaded


def _read_arrays(
    path: Path, network: Network, known: KnownWeights | None
) -> tuple[WeightsFacts, dict[str, Tensor]]:
    """Facts and arrays, under our names, of a safetensors or PyTorch file."""
    name, metadata = network.spec.name, dict[str, str]()
    if file_kind(path) == "safetensors":
        found, metadata = read_safetensors(path)
    else:
        found = read_torch(path)
    provenance = read_provenance(path, metadata) if known is None else None
    if provenance:
        facts = converted_facts(path, _sha256(path), provenance, name)
    else:
        facts = _facts_of(path, found, network, known or recognise_file(path, name))
    ours = network.state_dict() if facts.layout == OWN else trunk_names(network)
    if len(strip_prefix(found, LAYOUTS[facts.layout])) < len(found):
        raise WeightsError(
            f"{path}: holds some arrays twice, with and without {LAYOUTS[facts.layout].prefix!r}"
        )
    loaded, dropped = _in_our_names(found, ours, facts.layout)
    return replace(facts, dropped=dropped), loaded


def _facts_of(
    path: Path, found: Mapping[str, Tensor], network: Network, known: KnownWeights | None
) -> WeightsFacts:
    """What a file's publisher says of it, or else what its arrays tell."""
    if known is not None:
        return WeightsFacts(path, _sha256(path), known.layout, known.preprocessing, known.bn_eps, known.name)
    name = network.spec.name
    trunk = [key for key in trunk_names(network) if not key.endswith(COUNTER)]
    layout = recognise(found, name, trunk)
    if layout is None:
        other = other_network(found, name)
        hint = (
            f"these look like weights of {other}" if other else f"found arrays such as {_some(sorted(found))}"
        )
        raise WeightsError(
            f"{path}: not weights of {name}: {hint}; expected arrays such as {_some(trunk, most=2)}"
        )
    preprocessing = network.spec.preprocessing if layout.name == OWN else default_preprocessing(layout, name)
    return WeightsFacts(path, _sha256(path), layout.name, preprocessing, default_bn_eps(layout))


def _in_our_names(
    found: Mapping[str, Tensor], own: Iterable[str], layout_name: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Arrays of a file under our names, and the layers left behind; a name that is not of the layout is marked.

    A name of ours in a file of another layout is not taken for the array that we call so.
    """
    layout = LAYOUTS[layout_name]
    in_file = strip_prefix(found, layout)
    ours = {layout.file_name(key): key for key in own}
    dropped = layout.dropped(in_file)
    loaded = {
        ours.get(key, f"{raw} (no array of {layout.name})"): found[raw]
        for key, raw in in_file.items()
        if key not in dropped
    }
    return loaded, tuple(name for name in layer_names(dropped) if layout.name != OWN)


def convert_weights(weights: str | Path, network: Network, target: Path) -> WeightsFacts:
    """Write a network's pretrained trunk as safetensors in our own layout, with its provenance in the metadata.

    Parameters
    ----------
    weights : str or Path
        As for `load_weights`.
    network : Network
        A new network, changed in place.
    target : Path
        Where to write; a file that stands there is replaced.

    Returns
    -------
    WeightsFacts
        Of the file that was converted.

    Raises
    ------
    WeightsError
        As for `load_weights`.
    """
    facts = load_weights(network, weights)
    name = network.spec.name
    metadata = provenance_record(facts, name, known_weights(name).get(facts.known or ""))
    save_weights(target, {key: network.state_dict()[key] for key in trunk_names(network)}, metadata)
    return facts


def _check(path: Path, loaded: dict[str, Tensor], wanted: Mapping[str, Tensor], *, network: str) -> None:
    """Refuse arrays that are missing, too many, of another shape or type, or not finite; all of them are named."""
    needed = {name for name in wanted if not name.endswith(COUNTER)}
    missing, extra = sorted(needed - loaded.keys()), sorted(loaded.keys() - wanted.keys())
    misshapen = [
        f"{name} is {str(loaded[name].dtype).removeprefix('torch.')} {list(loaded[name].shape)}, "
        f"expected {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        for name, value in sorted(wanted.items())
        if name in loaded and (loaded[name].shape != value.shape or loaded[name].dtype != value.dtype)
    ]
    if missing or extra or misshapen:
        raise WeightsError(
            f"{path}: not the weights of {network}: found {len(loaded)} arrays, expected {len(needed)}; "
            f"missing: {_some(missing)}; unexpected: {_some(extra)}; misshapen: {_some(misshapen)}"
        )
    for name in sorted(needed):
        if not bool(loaded[name].isfinite().all()):
            raise WeightsError(
                f"{path}: {name} holds NaN or infinity; the file is damaged or the training diverged"
            )


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
