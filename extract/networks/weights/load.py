"""Load pretrained weights into a network: resolve, recognise, check, and only then change the network.

Loading is strict. Every array that the trunk needs must be in the file, in its shape, float32 and finite;
every other array must be one that the layout is known to drop. Otherwise the file is refused and the network
is not changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moodfuse.cache.digests import file_digest
from moodfuse.cache.files import METADATA_KEY
from moodfuse.extract.networks.registry import build_network, network_spec
from moodfuse.extract.networks.specs import (
    NetworkSpec,
    Preprocessing,
    input_size,
    preprocessing_from_record,
)
from moodfuse.extract.networks.weights.fetch import fetch_weights
from moodfuse.extract.networks.weights.files import (
    WeightsError,
    file_kind,
    read_arrays,
    safetensors_metadata,
    save_weights,
)
from moodfuse.extract.networks.weights.layouts import (
    COUNTER,
    FRONT_END,
    LAYOUTS,
    OWN,
    layer_names,
    other_network,
    recognise,
)
from moodfuse.extract.networks.weights.published import KnownWeights, known_weights, recognise_file

if TYPE_CHECKING:
    from torch import Tensor

    from moodfuse.extract.networks.base import Network

METADATA_FORMAT = "moodfuse-weights"
SCHEMA = 1
FILTERS = f"{FRONT_END}/Variable:0"
_FILTER_TOLERANCE = 1e-6


@dataclass(frozen=True)
class WeightsFacts:
    """What is known of a weights file."""

    path: Path
    sha256: str  # of the whole file
    layout: str  # how its arrays are named: a key of LAYOUTS
    preprocessing: Preprocessing  # the input that the weights want
    bn_eps: float | None = None  # epsilon of BatchNorm that they need; None keeps the network's own
    known: str | None = None  # name of the published weights, where a name or a digest identifies them
    dropped: tuple[str, ...] = ()  # layers of the original task, which are not loaded

    @property
    def identity(self) -> str:
        """What decides features, except the preprocessing; it enters a recipe's digest."""
        return self.sha256 if self.bn_eps is None else f"{self.sha256} bn_eps={self.bn_eps:g}"

    def __str__(self) -> str:
        dropped = f", without {', '.join(self.dropped)} (its original task)" if self.dropped else ""
        return f"{self.known or self.path.name} (layout {self.layout}, sha256 {self.sha256[:12]}){dropped}"


def bn_eps_of(identity: str) -> float | None:
    """The epsilon of BatchNorm in the identity of weights; `None` keeps the network's own.

    Raises
    ------
    ValueError
        If it is not between 0 and 1.
    """
    _, found, eps = identity.partition(" bn_eps=")
    return _check_eps(eps) if found else None


def _check_eps(eps: Any) -> float:
    if not 0 < float(eps) < 1:
        raise ValueError(f"bn_eps {eps}")
    return float(eps)


def resolve_weights(weights: str | Path, network: str) -> tuple[Path, KnownWeights | None]:
    """The file that a name or path stands for, fetched if needed, and the entry of the table for a name.

    Raises
    ------
    WeightsError
        If it is neither, or the weights cannot be fetched or fail their check.
    """
    published = known_weights(network)
    if str(weights) in published:
        known = published[str(weights)]
        return fetch_weights(known), known
    path = Path(weights)
    if path.is_file():
        return path, None
    reason = "a folder" if path.is_dir() else "no such file, and no known name"
    raise WeightsError(
        f"{weights}: {reason}; expected the path of a weights file for {network}, or one of: "
        f"{', '.join(published) or 'none is known'} (moodfuse weights ls)"
    )


def weights_facts(weights: str | Path, network: str) -> WeightsFacts:
    """Facts of weights by name, digest or provenance; only a file without any of these is loaded for them.

    Raises
    ------
    WeightsError
        As for `resolve_weights` and `load_weights`.
    """
    path, known = resolve_weights(weights, network)
    stat = path.stat()
    return _facts(path, network, known, stat.st_size, stat.st_mtime_ns)


@lru_cache(64)
def _facts(path: Path, network: str, known: KnownWeights | None, size: int, mtime_ns: int) -> WeightsFacts:
    declared = _declared_facts(path, network_spec(network), known)
    return declared or load_weights(build_network(network, num_classes=1), path)


def _declared_facts(path: Path, spec: NetworkSpec, known: KnownWeights | None) -> WeightsFacts | None:
    """Facts by name, digest or provenance, without reading the arrays."""
    is_safetensors = file_kind(path) == "safetensors"
    sha256 = file_digest(path)
    known = known or recognise_file(path, spec.name)
    if known is not None:
        return WeightsFacts(
            path, sha256, known.layout, known.preprocessing, known.bn_eps, known.name, known.drops
        )
    provenance = _read_provenance(path) if is_safetensors else None
    return None if provenance is None else _converted_facts(path, sha256, provenance, spec)


def _recognised_facts(path: Path, names: list[str], network: Network) -> WeightsFacts:
    """Facts by the names of the arrays."""
    name = network.spec.name
    trunk = [key for key in trunk_names(network) if not key.endswith(COUNTER)]
    layout = recognise(names, name, trunk)
    if layout is None:
        other = other_network(names, name)
        hint = f"these look like weights of {other}" if other else f"found arrays such as {_some(names)}"
        raise WeightsError(
            f"{path}: not weights of {name}: {hint}; expected arrays such as {_some(trunk, most=2)}"
        )
    facts = WeightsFacts(path, file_digest(path), layout.name, network.spec.preprocessing)
    if layout.published is None:
        return facts
    return replace(facts, preprocessing=layout.published.preprocessing, bn_eps=layout.published.bn_eps)


def trunk_names(network: Network) -> list[str]:
    """Names of the trunk's arrays: all but those of the replaced layers and the classifier."""
    return [name for name in network.state_dict() if not name.startswith(("classifier.", "replaced."))]


def load_weights(network: Network, weights: str | Path) -> WeightsFacts:
    """Load pretrained weights into a network, keep its classifier, and mark it as pretrained.

    The file must hold the whole trunk. Replaced layers are loaded from a file in our own layout that has all
    of them; a file with some of them is refused, and without any of them they keep their weights. Layers of
    the original task are not loaded, and are named in the result.

    Parameters
    ----------
    network : Network
        Changed in place, only once everything in the file has been checked.
    weights : str or Path
        A name of `known_weights`, or a file: safetensors, PyTorch or Keras HDF5, in any layout of `LAYOUTS`
        for this network.

    Returns
    -------
    WeightsFacts
        What was loaded, and which layers were not.

    Raises
    ------
    WeightsError
        If the file cannot be read or does not hold what the network needs.
    """
    path, known = resolve_weights(weights, network.spec.name)
    declared = _declared_facts(path, network.spec, known)
    arrays = read_arrays(path)
    facts = declared or _recognised_facts(path, sorted(arrays), network)

    layout = LAYOUTS[facts.layout]
    in_file = layout.strip_prefix(arrays)
    dropped = layout.dropped(in_file)
    own, trunk = network.state_dict(), trunk_names(network)
    names = {layout.file_name(key): key for key in (own if layout.name == OWN else trunk)}
    loaded = {names[key]: arrays[raw] for key, raw in in_file.items() if key in names and key not in dropped}
    unexpected = [raw for key, raw in in_file.items() if key not in names and key not in dropped]
    needed = [key for key in trunk if not key.endswith(COUNTER)]
    if any(key.startswith("replaced.") for key in loaded):
        needed += [key for key in own if key.startswith("replaced.")]
    _check(path, loaded, own, needed, unexpected, network.spec.name)
    if FILTERS in arrays:
        _check_front_end(path, arrays[FILTERS], network)

    network.load_state_dict({**own, **loaded})
    network.preprocessing = facts.preprocessing
    if facts.bn_eps is not None:
        network.set_bn_eps(facts.bn_eps)
    network.pretrained = True
    original_task = [name for name in dropped if layout.name != OWN and not name.startswith(FRONT_END)]
    return replace(facts, dropped=layer_names(original_task))


def _check(
    path: Path,
    loaded: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    needed: list[str],
    unexpected: list[str],
    network: str,
) -> None:
    """Refuse arrays that are missing, unexpected, not finite, or of another shape or dtype."""
    missing = sorted(set(needed) - loaded.keys())
    misshapen = [
        f"{name} is {_shape(value)}, expected {_shape(own[name])}"
        for name, value in sorted(loaded.items())
        if (value.shape, value.dtype) != (own[name].shape, own[name].dtype)
    ]
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"{path}: not the weights of {network}: found {len(loaded)} arrays, expected {len(needed)}; "
            f"missing: {_some(missing)}; unexpected: {_some(sorted(unexpected))}; "
            f"misshapen: {_some(misshapen)}"
        )
    infinite = [name for name in needed if not bool(loaded[name].isfinite().all())]
    if infinite:
        raise WeightsError(
            f"{path}: {infinite[0]} holds NaN or infinity; the file is damaged or the training diverged"
        )


def _shape(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _check_front_end(path: Path, filters: Tensor, network: Network) -> None:
    """Refuse a tagger whose mel filters, which are stored in its Keras file, are not the network's own."""
    own = network.get_buffer("mel_filters").numpy()
    if filters.shape != own.shape or np.abs(filters.numpy() - own).max() > _FILTER_TOLERANCE:
        raise WeightsError(
            f"{path}: its mel filters are not those of {network.spec.name}; it is another front end"
        )


def convert_weights(weights: str | Path, network: Network, target: Path) -> WeightsFacts:
    """Write a network's pretrained trunk as safetensors in our own layout, with its provenance.

    The weights are loaded into `network` first; returned are the facts of the file that was converted.

    Raises
    ------
    WeightsError
        As for `load_weights`.
    """
    facts = load_weights(network, weights)
    known = known_weights(network.spec.name).get(facts.known or "")
    provenance = {
        "format": METADATA_FORMAT,
        "schema": SCHEMA,
        "network": network.spec.name,
        "known": facts.known,
        "file": facts.path.name,
        "sha256": facts.sha256,
        "layout": facts.layout,
        "dropped": list(facts.dropped),
        "url": known.url if known else None,
        "licence": known.licence if known else None,
        "preprocessing": facts.preprocessing.as_record(),
        "bn_eps": facts.bn_eps,
    }
    state = network.state_dict()
    save_weights(target, {key: state[key] for key in trunk_names(network)}, provenance)
    return facts


def _read_provenance(path: Path) -> dict[str, Any] | None:
    """The provenance in a safetensors file that `convert_weights` wrote; `None` in others."""
    try:
        values = json.loads(safetensors_metadata(path).get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: its provenance is not JSON ({error}); convert the weights again"
        ) from error
    return values if isinstance(values, dict) and values.get("format") == METADATA_FORMAT else None


def _converted_facts(
    path: Path, sha256: str, provenance: Mapping[str, Any], spec: NetworkSpec
) -> WeightsFacts:
    if provenance.get("network") != spec.name:
        raise WeightsError(f"{path}: weights of {provenance.get('network')}, not of {spec.name}")
    known, eps = provenance.get("known"), provenance.get("bn_eps")
    try:
        if provenance.get("schema") != SCHEMA or not isinstance(known, str | None):
            raise ValueError("written by another version")
        preprocessing = preprocessing_from_record(provenance["preprocessing"])
        if input_size(preprocessing) != input_size(spec.preprocessing):
            raise ValueError("preprocessing for another kind or size of input")
        eps = None if eps is None else _check_eps(eps)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsError(
            f"{path}: its provenance cannot be used ({error}); convert the weights again"
        ) from error
    return WeightsFacts(path, sha256, OWN, preprocessing, eps, known)
