"""Load pretrained weights into a network: recognise the file, check it, and only then change the network.

Loading is strict. Every array that the trunk needs must be in the file, in its shape, float32 and finite;
every other array must be one that the layout is known to drop. Otherwise the network is not changed. The
layout of a file is recognised by the names of its arrays, never by its own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from moodfuse.cache.digests import file_digest
from moodfuse.cache.files import METADATA_KEY
from moodfuse.extract.networks.inputs import Preprocessing, preprocessing_from_record
from moodfuse.extract.networks.registry import find_hub, import_object
from moodfuse.extract.networks.weights.fetch import fetch_weights
from moodfuse.extract.networks.weights.files import (
    WeightsError,
    file_kind,
    read_arrays,
    safetensors_metadata,
    save_weights,
)
from moodfuse.extract.networks.weights.layouts import COUNTER, FRONT_END, LAYOUTS, OWN, recognise_layout
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS, KnownWeights, known_weights

if TYPE_CHECKING:
    from torch import Tensor

    from moodfuse.extract.networks.base import Network

METADATA_FORMAT = "moodfuse-weights"
SCHEMA = 1


@dataclass(frozen=True)
class WeightsFacts:
    """What is known of a weights file."""

    path: Path
    sha256: str  # of the whole file
    layout: str  # how its arrays are named: a key of LAYOUTS
    preprocessing: Preprocessing  # the input that the weights expect
    bn_eps: float | None = None  # epsilon of BatchNorm that they need; None keeps the network's own
    known: str | None = None  # name of the published weights, if they were given by it
    dropped: tuple[str, ...] = ()  # layers of the original task, which are not loaded
    architecture: str = ""  # as `Recipe.architecture`

    @property
    def identity(self) -> str:
        """What decides features, except the preprocessing; it enters a recipe's digest."""
        return self.sha256 if self.bn_eps is None else f"{self.sha256} bn_eps={self.bn_eps:g}"

    def __str__(self) -> str:
        dropped = f", without {', '.join(self.dropped)} (its original task)" if self.dropped else ""
        return f"{self.known or self.path.name} (layout {self.layout}, sha256 {self.sha256[:12]}){dropped}"


def bn_eps_of(identity: str) -> float | None:
    """The epsilon of BatchNorm in the identity of weights; `None` keeps the network's own."""
    _, _, eps = identity.partition(" bn_eps=")
    if not eps:
        return None
    if not 0 < float(eps) < 1:
        raise ValueError(f"bn_eps {eps}")
    return float(eps)


def resolve_weights(weights: str | Path, network: str) -> tuple[Path, KnownWeights | None]:
    """The file that a name or path stands for, fetched if needed, and the entry of the table for a name."""
    published = known_weights(network)
    if str(weights) in published:
        known = published[str(weights)]
        return fetch_weights(known), known
    path = Path(weights)
    if path.is_file():
        return path, None
    raise WeightsError(
        f"{weights}: no such file, and no known name; expected the path of a weights file for {network}, or "
        f"one of: {', '.join(published) or 'none is known'} (moodfuse weights ls)"
    )


def weights_facts(weights: str | Path, network: str) -> WeightsFacts:
    """Facts of weights by name or provenance; only a file without either is loaded for them."""
    if hub := find_hub(network):
        of_hub: WeightsFacts = import_object(f"{hub.module}:checkpoint_facts")(network, str(weights))
        return of_hub
    path, known = resolve_weights(weights, network)
    return _cached_facts(path, network, known, path.stat().st_mtime_ns)


@lru_cache(64)
def _cached_facts(path: Path, network: str, known: KnownWeights | None, mtime_ns: int) -> WeightsFacts:
    facts = _declared_facts(path, network, known)
    if facts is None:
        from moodfuse.extract.networks.base import build_network  # imports torch

        facts = load_weights(build_network(network, num_classes=1), path)
    return facts


def _declared_facts(path: Path, network: str, known: KnownWeights | None) -> WeightsFacts | None:
    """Facts by name or provenance, without reading the arrays."""
    kind, sha256 = file_kind(path), file_digest(path)
    if known is not None:
        return WeightsFacts(
            path, sha256, known.layout, known.preprocessing, known.bn_eps, known.name, known.drops
        )
    metadata = safetensors_metadata(path) if kind == "safetensors" else {}
    try:
        provenance = json.loads(metadata.get(METADATA_KEY, "{}"))
        if provenance.get("format") != METADATA_FORMAT:
            return None
        if provenance["schema"] != SCHEMA:
            raise ValueError(f"schema {provenance['schema']}, expected {SCHEMA}")
        preprocessing = preprocessing_from_record(provenance["preprocessing"])
        facts = WeightsFacts(path, sha256, OWN, preprocessing, provenance["bn_eps"], provenance["known"])
        of_network = provenance["network"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: its metadata cannot be read by this version of moodfuse ({error!r}); convert the "
            "weights again"
        ) from error
    if of_network != network:
        raise WeightsError(f"{path}: weights of {of_network}, not of {network}")
    return facts


def _recognised_facts(path: Path, names: Collection[str], network: Network) -> WeightsFacts:
    """Facts by the names of the arrays; preprocessing is that of the layout's first published weights."""
    trunk = trunk_names(network)
    layout = recognise_layout(names, network.spec.name, trunk)
    if layout is None:
        raise WeightsError(
            f"{path}: not weights of {network.spec.name}: holds arrays such as {_first(sorted(names))}; "
            f"expected arrays such as {_first(trunk, most=2)}"
        )
    facts = WeightsFacts(path, file_digest(path), layout.name, network.spec.preprocessing)
    published = next((known for known in KNOWN_WEIGHTS.values() if known.layout == layout.name), None)
    if published is None:
        return facts
    return replace(facts, preprocessing=published.preprocessing, bn_eps=published.bn_eps)


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
        A name of `known_weights`, or a file: safetensors, PyTorch, Keras HDF5 or a pickle of NumPy arrays,
        in any layout of `LAYOUTS` for this network.

    Raises
    ------
    WeightsError
        If the file cannot be read or does not hold what the network needs.
    """
    if find_hub(network.spec.name):
        return _load_from_hub(network, weights)
    path, known = resolve_weights(weights, network.spec.name)
    declared = _declared_facts(path, network.spec.name, known)
    arrays = read_arrays(path)
    facts = declared or _recognised_facts(path, arrays, network)

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
    _check_arrays(path, loaded, own, needed, unexpected)

    network.load_state_dict({**own, **loaded})
    network.preprocessing = facts.preprocessing
    if facts.bn_eps is not None:
        network.set_bn_eps(facts.bn_eps)
    network.pretrained = True
    layers = (
        re.sub(r"(\.conv3d)?[./](weight|bias|kernel)(:0)?$", "", name)
        for name in dropped
        if FRONT_END not in name
    )
    return replace(facts, dropped=() if layout.name == OWN else tuple(dict.fromkeys(layers)))


def _load_from_hub(network: Network, weights: str | Path) -> WeightsFacts:
    """Load a checkpoint by the library of a hub."""
    facts = weights_facts(weights, network.spec.name)
    network.load_checkpoint(facts.path)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{facts.path}: {name} holds NaN or infinity; the file is damaged")
    network.preprocessing = facts.preprocessing
    network.pretrained = True
    return facts


def _check_arrays(
    path: Path,
    loaded: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    needed: list[str],
    unexpected: list[str],
) -> None:
    """Check names, shapes, dtypes and values of the arrays of a file."""
    missing = sorted(set(needed) - loaded.keys())
    misshapen = [
        f"{name} is {_shape(value)}, expected {_shape(own[name])}"
        for name, value in sorted(loaded.items())
        if (value.shape, value.dtype) != (own[name].shape, own[name].dtype)
    ]
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"{path}: not the weights of this network: {len(loaded)} arrays, expected {len(needed)}; "
            f"missing: {_first(missing)}; unexpected: {_first(sorted(unexpected))}; "
            f"misshapen: {_first(misshapen)}"
        )
    infinite = [name for name in needed if not bool(loaded[name].isfinite().all())]
    if infinite:
        raise WeightsError(
            f"{path}: {infinite[0]} holds NaN or infinity; the file is damaged or the training diverged"
        )


def _shape(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _first(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def convert_weights(weights: str | Path, network: Network, target: Path) -> WeightsFacts:
    """Write a network's pretrained trunk as safetensors in our own layout, with its provenance.

    The weights are loaded into `network` first; returns the facts of the file that was converted.
    """
    if find_hub(network.spec.name):
        raise WeightsError(f"{network.spec.name}: its weights are used as the hub publishes them")
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
