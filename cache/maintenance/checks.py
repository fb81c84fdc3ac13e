"""The check of each kind of file in a cache: every byte, and that it is what its place says. Reading only.

Each check raises `DamagedPartError`, or whatever reading the file raises; `moodfuse.cache.maintenance.verify` runs them.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from moodfuse.cache.audits import FORMAT_OF_MARKS, audit_in, check_marks
from moodfuse.cache.blocks import check_each_once, open_features
from moodfuse.cache.clip_table import ATTRIBUTES, statuses_from
from moodfuse.cache.digests import Digests, canonical_json, digest16
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.fits import check_fits
from moodfuse.cache.manifest import Manifest, read_outcome
from moodfuse.cache.media import FORMAT as FORMAT_OF_MEDIA
from moodfuse.cache.media import check_media, check_place
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.runs import check_predictions
from moodfuse.cache.storage.files import read_regular
from moodfuse.cache.storage.json_files import check_keys, read_named
from moodfuse.cache.storage.layout import Entry, folder_of
from moodfuse.cache.storage.parts import SCHEMA, open_part, verify_part
from moodfuse.cache.storage.weight_files import check_sealed
from moodfuse.cache.store import check_trained, read_recipe

WAVEFORM_SAMPLES = 480_000
"""Length of every waveform: 30 seconds at 16 kHz."""
Check = Callable[[Entry], Digests | None]
"""Takes a file; returns the clips that it holds features of."""


def _json(entry: Entry, *, may_end: bytes = b"") -> Any:
    """A record whose text is canonical: any other text was not written so. It may have one ending."""
    data = read_regular(entry.path).removesuffix(may_end)
    values = json.loads(data.decode("utf-8"))
    _demand(data, canonical_json(values).encode(), "its text is not canonical, so it was changed")
    return values


def _demand(found: object, wanted: object, reason: str) -> None:
    """Refuse a file in which something is not what it should be."""
    if found != wanted:
        raise DamagedPartError(reason)


def _marker(entry: Entry) -> None:
    values = _json(entry, may_end=b"\n")
    found = (values["format"], values["schema"], "written_by" in values)
    _demand(found, ("moodfuse-cache", SCHEMA, True), "is no cache's marker")


def _plan(entry: Entry) -> None:
    verify_part(entry.path)
    Manifest.read_plan(entry.path)


def _table(entry: Entry) -> None:
    arrays, attributes = verify_part(entry.path)
    _demand(attributes, ATTRIBUTES, "holds no table of clips")
    statuses_from(entry.path, arrays)


def _outcome(entry: Entry) -> None:
    _json(entry)
    read_outcome(entry.path)


def _choice(entry: Entry) -> None:
    _json(entry)
    values = read_named(entry.path)
    _demand((type(values["sequence"]), type(values["sources"])), (int, dict), "is no choice of sources")


def _audit(entry: Entry) -> None:
    _json(entry)
    audit_in(entry.path)


def _media(entry: Entry) -> None:
    arrays, attributes = verify_part(entry.path)
    check_place(entry.path, attributes, form=FORMAT_OF_MEDIA)
    check_media(entry.path, arrays, attributes)
    if attributes["view"] == "sound":
        length, samples = len(arrays["waveform"]), attributes["waveform_samples"]
        _demand(length, WAVEFORM_SAMPLES, f"its waveform has {length} samples; expected {WAVEFORM_SAMPLES}")
        _demand(0 <= samples <= length, True, f"says that {samples} of its {length} samples were in the file")


def _marks(entry: Entry) -> None:
    arrays, attributes = verify_part(entry.path)
    check_place(entry.path, attributes, form=FORMAT_OF_MARKS)
    check_marks(entry.path, arrays, attributes)


def _recipe(entry: Entry) -> None:
    values = _json(entry)
    if digest16({key: value for key, value in values.items() if key != "source"}) == entry.parents[2]:
        check_keys(Recipe, values, entry.path)
    recipe = read_recipe(entry.path)
    _demand(folder_of(recipe.source), entry.parents[1], "belongs to another source than its folder says")


def _training(entry: Entry) -> None:
    _json(entry)
    check_trained(entry.path)


def _features(entry: Entry) -> Digests:
    arrays, _ = verify_part(entry.path)
    with open_features(entry.path) as (_, attributes):
        owner = (
            folder_of(str(attributes.get("source"))),
            attributes.get("recipe"),
            attributes.get("trained"),
        )
    _demand(owner, entry.parents[1:], f"belongs to {'/'.join(map(str, owner))}")
    clips = arrays["clip"]
    check_each_once(entry.path, clips)
    return clips


def _network(entry: Entry) -> None:
    check_sealed(entry.path)


def _fits(entry: Entry) -> None:
    check_fits(entry.path, *verify_part(entry.path))


def _run(entry: Entry) -> None:
    values = _json(entry)
    predictions = values.pop("predictions")
    _demand(predictions.rpartition("/")[2], predictions, "names predictions in another folder")
    with open_part(entry.path.with_name(predictions)) as (part, attributes):
        _demand(
            attributes["record"], digest16(values), "is not the record that was written with the predictions"
        )
        _check_shapes({name: array.shape for name, array in part.items()}, values)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any]) -> None:
    """Check that predictions have probabilities for every result of a run, and a row for every clip."""
    wanted = (len(values["ids"]), len(values["classes"]))
    for number in range(len(values["results"])):
        name = f"probabilities_{number:04d}"
        _demand(name in shapes, True, f"its predictions have no array {name!r}")
    for name, shape in shapes.items():
        expected = (len(values.get("repeat_folds", ())), *wanted) if name.startswith("repeats_") else wanted
        _demand(shape, expected, f"its predictions have {name} of shape {shape}; expected {expected}")


def _predictions(entry: Entry) -> None:
    check_predictions(entry.path, *verify_part(entry.path))


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
    "fits": _fits,
    "run": _run,
    "predictions": _predictions,
}
"""Kind of file to its check; views and what a run was made into carry no digest, and are not checked."""
