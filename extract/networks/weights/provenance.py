"""What goes with pretrained weights beside their arrays, and how a converted file carries it in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moodfuse.cache.files import METADATA_KEY
from moodfuse.extract.networks.registry import (
    Preprocessing,
    input_size,
    network_spec,
    preprocessing_from_record,
)
from moodfuse.extract.networks.weights.files import WeightsError
from moodfuse.extract.networks.weights.known import KnownWeights
from moodfuse.extract.networks.weights.layouts import OWN

METADATA_FORMAT = "moodfuse-weights"
SCHEMA = 1


@dataclass(frozen=True)
class WeightsFacts:
    """What is known of weights before or after they are read.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file.
    layout : str
        How its arrays are named.
    preprocessing : VideoPreprocessing or AudioPreprocessing
        The input that they want.
    bn_eps : float, optional
        What goes with them into BatchNorm; `None` leaves the network's own.
    known : str, optional
        Name of the published weights that the file holds, where a name or a digest says so.
    dropped : tuple of str
        Layers of the old task that are left behind; empty until the file was read.
    """

    path: Path
    sha256: str
    layout: str
    preprocessing: Preprocessing
    bn_eps: float | None = None
    known: str | None = None
    dropped: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What of the weights decides a source's numbers, beside the preprocessing: it enters its recipe's digest."""
        return self.sha256 if self.bn_eps is None else f"{self.sha256} bn_eps={self.bn_eps:g}"

    def __str__(self) -> str:
        dropped = f", without {', '.join(self.dropped)} (its old task)" if self.dropped else ""
        return f"{self.known or self.path.name} (layout {self.layout}, sha256 {self.sha256[:12]}){dropped}"


def bn_eps_of(identity: str) -> float | None:
    """What goes with weights into BatchNorm, by their identity; `None` leaves the network's own.

    Raises
    ------
    ValueError
        If it names none that can be.
    """
    _, found, eps = identity.partition(" bn_eps=")
    if not found:
        return None
    if not 0 < float(eps) < 1:
        raise ValueError(f"bn_eps {eps}")
    return float(eps)


def read_provenance(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The provenance in the metadata of a safetensors file; `None` where it was not converted by moodfuse.

    Raises
    ------
    WeightsError
        If it is not JSON.
    """
    try:
        values = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: its provenance is not JSON ({error}); convert the weights again"
        ) from error
    return values if isinstance(values, dict) and values.get("format") == METADATA_FORMAT else None


def converted_facts(path: Path, sha256: str, provenance: Mapping[str, Any], network: str) -> WeightsFacts:
    """Facts of a file that `moodfuse weights convert` wrote.

    Raises
    ------
    WeightsError
        If it is for another network, or what it says cannot be used.
    """
    if provenance.get("network") != network:
        raise WeightsError(f"{path}: weights of {provenance.get('network')}, not of {network}")
    own, eps, known = network_spec(network).preprocessing, provenance.get("bn_eps"), provenance.get("known")
    try:
        preprocessing = preprocessing_from_record(provenance["preprocessing"])
        if provenance.get("schema") != SCHEMA or not isinstance(known, str | None):
            raise ValueError("written by another version")
        if input_size(preprocessing) != input_size(own):
            raise ValueError("preprocessing for another kind or size of input")
        eps = None if eps is None else float(eps)
        if eps is not None and not 0 < eps < 1:
            raise ValueError(f"bn_eps {eps}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsError(
            f"{path}: its provenance cannot be used ({error}); convert the weights again"
        ) from error
    return WeightsFacts(path, sha256, OWN, preprocessing, eps, known)


def provenance_record(facts: WeightsFacts, network: str, known: KnownWeights | None) -> dict[str, Any]:
    """What a converted file says of itself, as JSON types."""
    return {
        "format": METADATA_FORMAT,
        "schema": SCHEMA,
        "network": network,
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
