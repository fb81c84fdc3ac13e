"""The check of each kind of file in a cache: every byte, and that it is what its place says. Reading only.

Each check raises `DamagedPartError`, or whatever reading the file raises; `cache.verify` runs them.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from cache.audits import Finding
from cache.blocks import FORMAT, check_each_once
from cache.choices import read_recipe
from cache.columns import Digests
from cache.errors import DamagedPartError
from cache.identity import canonical_json, digest16
from cache.layout import Entry, folder_of
from cache.manifest import Manifest
from cache.media import FORMAT as FORMAT_OF_MEDIA
from cache.parts import SCHEMA, read_part, verify_part
from cache.records import Outcome
from cache.seals import check_sealed
from cache.store import check_trained
from cache.tables import ClipTable

Check = Callable[[Entry], Digests | None]
"""Takes a file; returns the clips that it holds features of."""


def _json(entry: Entry, *, ending: str = "") -> Any:
    """A record whose text is canonical: any other text was not written so."""
    data = entry.path.read_bytes()
    values = json.loads(data.decode("utf-8"))
    _demand(data == (canonical_json(values) + ending).encode(), "its text is not canonical, so it was changed")
    return values


def _demand(holds: bool, reason: str) -> None:
    if not holds:
        raise DamagedPartError(reason)


def _named_by_digest(entry: Entry) -> Any:
    values = _json(entry)
    _demand(digest16(values) == entry.path.stem.rsplit("-", 1)[-1], "its content does not match its name")
    return values


def _marker(entry: Entry) -> None:
    values = _json(entry, ending="\n")
    expected = ("moodfuse-cache", SCHEMA, True)
    _demand((values["format"], values["schema"], "written_by" in values) == expected, "is no cache's marker")


def _plan(entry: Entry) -> None:
    verify_part(entry.path)
    Manifest.read_plan(entry.path)


def _table(entry: Entry) -> None:
    ClipTable.from_arrays(verify_part(entry.path)[0])


def _outcome(entry: Entry) -> None:
    outcome = Outcome(**_named_by_digest(entry))
    place = (entry.parents[-1], entry.path.name[:33])
    _demand(place == (outcome.digest[:2], f"{outcome.digest[:32]}-"), "belongs to another clip than its name says")


def _choice(entry: Entry) -> None:
    values = _named_by_digest(entry)
    _demand(isinstance(values["sequence"], int) and isinstance(values["sources"], dict), "is no choice of sources")


def _audit(entry: Entry) -> None:
    values = _named_by_digest(entry)
    _demand(isinstance(values["clips"], str) and isinstance(values["rules"], str), "is no audit")
    for finding in values["findings"]:
        Finding(**finding)


def _media(entry: Entry) -> None:
    _clip_part(entry, FORMAT_OF_MEDIA)


def _marks(entry: Entry) -> None:
    _clip_part(entry, "moodfuse-marks")


def _clip_part(entry: Entry, form: str) -> None:
    """Check a part of one clip: its clip stands in its name and folder, its rules are those of the folder above."""
    attributes = verify_part(entry.path)[1]
    clip = attributes["clip"]
    _demand(attributes["format"] == form, f"is of format {attributes['format']}")
    place = (entry.parents[-1], entry.path.name.rpartition("-")[0])
    _demand(place == (clip[:2], clip[:32]), "belongs to another clip than its name says")
    _demand(digest16(attributes["rules"]) == entry.parents[-2], "was made by other rules than its folder says")


def _recipe(entry: Entry) -> None:
    _json(entry)
    recipe = read_recipe(entry.path)
    _demand(folder_of(recipe.source) == entry.parents[1], "belongs to another source than its folder says")


def _training(entry: Entry) -> None:
    _json(entry)
    check_trained(entry.path)


def _features(entry: Entry) -> Digests:
    arrays, attributes = verify_part(entry.path)
    clips = arrays["clip"]
    _, source, recipe, trained = entry.parents
    _demand(attributes["format"] == FORMAT and clips.dtype == np.dtype("S64"), "holds no features")
    owner = (folder_of(attributes["source"]), attributes["recipe"], attributes["trained"])
    _demand(owner == (source, recipe, trained), f"belongs to {'/'.join(owner)}")
    _demand(all(len(array) == len(clips) for array in arrays.values()), "has arrays of different lengths")
    check_each_once(entry.path, clips)
    return clips


def _network(entry: Entry) -> None:
    check_sealed(entry.path)


def _run(entry: Entry) -> None:
    values = _json(entry)
    predictions = values.pop("predictions")
    _demand(predictions == predictions.rpartition("/")[2], "names predictions in another folder")
    _, attributes = read_part(entry.path.with_name(predictions), names=())
    _demand(attributes["record"] == digest16(values), "is not the record that was written with the predictions")


def _predictions(entry: Entry) -> None:
    _demand(verify_part(entry.path)[1]["format"] == "moodfuse-predictions", "holds no predictions")


CHECKS: dict[str, Check] = {
    "marker": _marker,
    "plan": _plan,
    "table": _table,
    "outcome": _outcome,
    "choice": _choice,
    "audit": _audit,
    "marks": _marks,
    "media": _media,
    "recipe": _recipe,
    "training": _training,
    "features": _features,
    "network": _network,
    "checkpoint": _network,
    "run": _run,
    "predictions": _predictions,
}
"""Kind of file to its check; views and what a run was made into carry no digest, and are not checked."""
