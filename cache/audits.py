"""Audits: pairs of clips that may be one, as stage one finds them and stage three reports them."""

from dataclasses import asdict, dataclass

from cache.errors import DamagedPartError, InputError
from cache.files import read_json, set_aside, write_text
from cache.identity import canonical_json, digest16
from cache.store import FeatureCache

KINDS = ("file", "sound", "frames", "name")


@dataclass(frozen=True)
class Finding:
    """Two clips that may be one: what a group audit found. Times are within the clips, in seconds.

    Attributes
    ----------
    kind : str
        ``"file"``, ``"sound"``, ``"frames"`` or ``"name"``.
    first, second : str
        Clip ids.
    score : float
        Similarity in [0, 1]; 1 for identical files.
    first_s, second_s, length_s : float
        Where the likeness begins in each clip, and how long it lasts; 0 where that has no meaning.
    grouped : bool
        Whether both are of one group already, so that no split can part them.
    """

    kind: str
    first: str
    second: str
    score: float
    first_s: float
    second_s: float
    length_s: float
    grouped: bool

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"audit: kind {self.kind!r} is unknown; known: {', '.join(KINDS)}")


@dataclass(frozen=True)
class Audit:
    """Findings on the clips of a plan, and what was compared (`rules`), in words with its thresholds."""

    rules: str
    findings: tuple[Finding, ...]


def write_audit(cache: FeatureCache, audit: Audit) -> None:
    """Keep an audit of the clips that the plan in force covers."""
    values = {
        "clips": _clips_digest(cache),
        "rules": audit.rules,
        "findings": [asdict(finding) for finding in audit.findings],
    }
    write_text(cache.path / "audits" / f"{digest16(values)}.json", canonical_json(values))


def read_audit(cache: FeatureCache) -> Audit | None:
    """The audit of the clips that the plan in force covers, or `None` if none was made; damaged ones are set aside."""
    files = (cache.path / "audits").glob("[!.]*.json")
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        try:
            values = read_json(file)
        except DamagedPartError as error:
            set_aside(file, str(error))
            continue
        if digest16(values) != file.stem:
            set_aside(file)
        elif values["clips"] == _clips_digest(cache):
            return Audit(values["rules"], tuple(Finding(**finding) for finding in values["findings"]))
    return None


def _clips_digest(cache: FeatureCache) -> str:
    """What an audit depends on: clips by name and content, and their groups."""
    return digest16([[status.clip.id, status.digest, status.group] for status in cache.clips])
