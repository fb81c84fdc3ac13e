"""What came of decoding each clip, one small file an outcome: ``clips/<aa>/<clip32>-<digest16>.json``."""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import DamagedPartError, SchemaError
from moodfuse.cache.records import Outcome
from moodfuse.cache.storage.files import listing, set_aside, write_text
from moodfuse.cache.storage.json_records import read_named, record_of

log = logging.getLogger(__name__)


def write_outcome(home: Path, outcome: Outcome) -> None:
    """Keep what became of a clip; `home` is ``<cache>/clips``."""
    values = asdict(outcome)
    name = f"{outcome.digest[:32]}-{digest16(values)}.json"
    write_text(home / outcome.digest[:2] / name, canonical_json(values))


def read_outcomes(home: Path, digests: Iterable[str]) -> dict[str, list[Outcome]]:
    """Every outcome on record of some clips, by clip digest; clips without one are left out.

    Damaged ones are set aside; those of a newer version are passed over.
    """
    found: dict[str, list[Outcome]] = {}
    listings: dict[str, list[Path]] = {}
    for digest in digests:
        shelf = digest[:2]
        if shelf not in listings:
            listings[shelf] = listing(home / shelf, suffix=".json")
        for file in listings[shelf]:
            if file.name.startswith(digest[:32]) and (outcome := _usable(file)):
                found.setdefault(digest, []).append(outcome)
    return found


def _usable(file: Path) -> Outcome | None:
    try:
        return read_outcome(file)
    except SchemaError as error:
        log.info("passed over: %s", error)
    except DamagedPartError as error:
        set_aside(file, str(error))
    return None


def read_outcome(file: Path) -> Outcome:
    """An outcome, held to its name: its digest first, then its keys, then its clip.

    Raises
    ------
    DamagedPartError
        If the file is not what its name says.
    SchemaError
        If a newer version wrote it.
    """
    outcome = record_of(Outcome, read_named(file), file)
    if (file.parent.name, file.name[:33]) != (str(outcome.digest)[:2], f"{str(outcome.digest)[:32]}-"):
        raise DamagedPartError(f"{file}: belongs to another clip than its name says")
    return outcome
