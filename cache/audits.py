"""Group audits: pairs of clips that may be the same, found by `extract` and reported by `evaluate`.

The marks that an audit compares are stored when a clip is decoded, about ten thousand bytes each, so that
clips can be compared whether or not their media are stored.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.media import find_clip, read_clip_part, write_clip_part
from moodfuse.cache.storage.files import listing, make_record, read_named, read_valid, write_text
from moodfuse.cache.storage.parts import check_dtypes
from moodfuse.cache.store import FeatureCache

FORMAT_OF_MARKS = "moodfuse-marks"
KINDS = ("file", "sound", "frames", "name")
_MARKS = {
    "peak_times": ("<u2", 1),
    "peak_bins": ("<u2", 1),
    "frame_hashes": ("<u8", 1),
    "frame_times_s": ("<f8", 1),
}


@dataclass(frozen=True)
class Finding:
    """Two clips that may be the same. Times are within the clips, in seconds.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    first, second : str
        Clip ids.
    score : float
        Similarity in [0, 1]; 1 for identical files.
    first_s, second_s, length_s : float
        Start of the similar part in each clip, and its length; 0 where that has no meaning.
    grouped : bool
        Whether both are in one group already, so that no split can separate them.
    """

    kind: str
    first: str
    second: str
    score: float
    first_s: float
    second_s: float
    length_s: float
    grouped: bool


@dataclass(frozen=True)
class Audit:
    """Findings on the clips of a plan, and what was compared (`rules`), in words with its thresholds."""

    rules: str
    findings: tuple[Finding, ...]


def write_audit(cache: FeatureCache, audit: Audit) -> None:
    """Store an audit of the clips that the current plan covers."""
    findings = [asdict(finding) for finding in audit.findings]
    values = {"clips": _clips_digest(cache), "rules": audit.rules, "findings": findings}
    write_text(cache.path / "audits" / f"{digest16(values)}.json", canonical_json(values))


def read_audit(cache: FeatureCache) -> Audit | None:
    """The newest audit of the clips that the current plan covers, or `None`.

    Damaged files are quarantined; those of a newer version are skipped.
    """
    files = listing(cache.path / "audits", suffix=".json")
    newest_first = sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)
    audits = read_valid(newest_first, read_audit_file, skip_newer=True)
    return next((audit for _, (clips, audit) in audits if clips == _clips_digest(cache)), None)


def read_audit_file(file: Path) -> tuple[str, Audit]:
    """The audit in a file, and the digest of the clips that it compared.

    Raises `DamagedPartError` if the content does not match the name; `SchemaError` if a newer version wrote
    it.
    """
    values = read_named(file)
    try:
        findings = tuple(make_record(Finding, finding, file) for finding in values["findings"])
        return str(values["clips"]), Audit(str(values["rules"]), findings)
    except (KeyError, TypeError) as error:
        raise DamagedPartError(f"{file}: is not an audit ({error})") from error


def _clips_digest(cache: FeatureCache) -> str:
    return digest16([[status.clip.id, status.digest, status.group] for status in cache.clips])


@dataclass(frozen=True)
class ClipMarks:
    """What an audit compares of one clip.

    Attributes
    ----------
    peak_times, peak_bins : ndarray of uint16, shape (P,)
        Peaks of the audio's spectrogram: index of the hop and of the frequency bin.
    frame_hashes : ndarray of uint64, shape (M,)
        Hashes of its frames.
    frame_times_s : ndarray of float64, shape (M,)
        When each is shown, from the clip's start.
    """

    peak_times: np.ndarray
    peak_bins: np.ndarray
    frame_hashes: np.ndarray
    frame_times_s: np.ndarray


def check_marks(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> ClipMarks:
    """The marks in a part; `DamagedPartError` if it is not the marks of a clip."""
    check_dtypes(file, arrays, _MARKS)
    marks = ClipMarks(**{name: arrays[name] for name in _MARKS})
    if len(marks.peak_times) != len(marks.peak_bins) or len(marks.frame_hashes) != len(marks.frame_times_s):
        raise DamagedPartError(f"{file}: its marks are of different lengths")
    return marks


class MarkStore:
    """Marks of clips under one set of rules, one part per clip, in ``<cache>/audits/<rules16>``.

    Marks that this object has written are also kept in memory.
    """

    def __init__(self, cache: FeatureCache, rules: str) -> None:
        self.folder = cache.path / "audits" / digest16(rules)
        self.rules = rules
        self._written: dict[str, ClipMarks] = {}

    def holds(self, digest: str) -> bool:
        """Whether the marks of a clip are stored."""
        return digest in self._written or find_clip(self.folder, digest, form=FORMAT_OF_MARKS) is not None

    def write(self, digest: str, marks: ClipMarks) -> None:
        """Store the marks of a clip."""
        arrays = {name: getattr(marks, name) for name in _MARKS}
        write_clip_part(self.folder, digest, arrays, {"rules": self.rules}, form=FORMAT_OF_MARKS)
        self._written[digest] = marks

    def read(self, digest: str) -> ClipMarks | None:
        """The marks of a clip, or `None` where there are none."""
        if digest in self._written:
            return self._written[digest]
        return read_clip_part(self.folder, digest, form=FORMAT_OF_MARKS, read=check_marks)
