"""A model on a test set: labelled clips that it never saw, which is checked before anything is scored."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moodfuse.cache.audits import ClipMarks, Finding
from moodfuse.cache.digests import clip_digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import join_groups
from moodfuse.cache.records import Clip
from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.evaluation import TEST
from moodfuse.model.folder import TRAINING, TrainingClip, read_training
from moodfuse.model.model import Ask, Model
from moodfuse.model.predictions import Prediction, Refusal

if TYPE_CHECKING:
    from moodfuse.extract.media.decode import DecodedClip

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tested:
    """What a model says of a test set.

    Attributes
    ----------
    run : Run
        With one result, of the clips that were scored.
    refused : tuple of str
        Sentences on clips that were not: seen in training, or not readable.
    alike : tuple of Finding
        Clips that were scored although they sound or look like one that the model was trained on.
    """

    run: Run
    refused: tuple[str, ...]
    alike: tuple[Finding, ...]


def held_out(clips: Sequence[Clip]) -> list[Clip]:
    """The clips of the split ``test`` where a data set has any; else all."""
    return [clip for clip in clips if clip.split == "test"] or list(clips)


def run_test(model: Model, clips: Sequence[Clip], *, jobs: int, say: Say) -> Tested:
    """Predict labelled clips that the model was not trained on.

    A clip whose file, or whose very window, was trained on is refused; so is one of a group that was. One that only
    sounds or looks like a training clip is scored, and named.

    Parameters
    ----------
    model : Model
    clips : sequence of Clip
    jobs : int
        Decoding processes.
    say : callable
        Takes each line that the user should read.

    Raises
    ------
    InputError
        If a label is none of the model's, or no clip is left to score.
    """
    from moodfuse.extract.dataset.hashing import hash_files

    if strange := sorted({clip.label for clip in clips} - set(model.classes)):
        raise InputError(
            f"label {strange[0]!r} is none of the model's: {', '.join(model.classes)}; correct the labels"
        )
    rules, training = read_training(model.folder / TRAINING)
    files, known = hash_files(clips), _Known(training)
    refused: list[str] = []

    def refuse(clip: Clip, why: str) -> None:
        refused.append(f"{clip.id}: {why}")
        say(f"refused {refused[-1]}")

    fresh = []
    for clip in clips:
        if why := known.why_seen(clip, files[clip.id]):
            refuse(clip, why)
        else:
            fresh.append(clip)
    groups = join_groups(clips, files)
    said, marks = _predicted(model, fresh, rules, jobs=jobs)
    kept = []
    for clip in fresh:
        found = said[clip.id]
        if isinstance(found, Refusal):
            refuse(clip, f"{found.code}: {found.detail}")
        else:
            digest = clip_digest(files[clip.id], clip.start_s, clip.end_s)
            kept.append(_Scored(clip, digest, groups[clip.id], found))
    if not kept:
        raise InputError(f"none of the {len(clips)} clips can be scored; see the reasons above")
    alike = _alike(kept, marks, training) if marks else ()
    notes = list(_notes(model, kept, alike, refused=len(refused)))
    if unmarked := _unmarked(training) if marks else len(training):
        notes.append(f"likeness to {unmarked} of {len(training)} training clips could not be checked")
        say(f"WARNING {notes[-1]}")
    for item in alike:
        say(f"WARNING {item.kind} alike: {item.first} and {item.second}, which the model was trained on")
    return Tested(_run(model, kept, notes), tuple(refused), alike)


@dataclass(frozen=True)
class _Scored:
    """A test clip, and what the model says of it."""

    clip: Clip
    digest: str
    group: str
    found: Prediction


class _Known:
    """The clips that a model was trained on, by all that a test clip may share with one; of several the first."""

    def __init__(self, training: Sequence[TrainingClip]) -> None:
        backwards = training[::-1]
        self.by_digest = {clip.digest: clip.id for clip in backwards}
        self.by_file = {clip.file_sha256: clip.id for clip in backwards}
        self.by_group = {clip.group: clip.id for clip in backwards}

    def why_seen(self, clip: Clip, file_sha256: str) -> str:
        """Why a clip is no test of the model; empty where nothing speaks against it, or its file cannot be read."""
        digest = clip_digest(file_sha256, clip.start_s, clip.end_s) if file_sha256 else ""
        if digest in self.by_digest:
            return f"the model was trained on this very clip, {self.by_digest[digest]}"
        if file_sha256 in self.by_file:
            return f"the model was trained on a window of this file, {self.by_file[file_sha256]}"
        if clip.group in self.by_group:
            return f"the model was trained on {self.by_group[clip.group]}, of the same group {clip.group!r}"
        return ""


def _predicted(
    model: Model, clips: Sequence[Clip], rules: str, *, jobs: int
) -> tuple[dict[str, Prediction | Refusal], dict[str, ClipMarks]]:
    """What the model says of each clip, and what it is compared by."""
    from moodfuse.extract.dataset.ingest import MARK_RULES, marks_of

    marks: dict[str, ClipMarks] = {}
    said: dict[str, Prediction | Refusal] = {}
    asks = [Ask(clip.path, clip.start_s, clip.end_s) for clip in clips]

    def look(number: int, decoded: "DecodedClip") -> None:
        if rules == MARK_RULES:
            marks[clips[number].id] = marks_of(decoded)

    for clip, found in zip(clips, model.label(asks, jobs=jobs, explain=False, look=look), strict=True):
        said[clip.id] = found
    return said, marks


def _alike(
    kept: Sequence[_Scored], marks: dict[str, ClipMarks], training: Sequence[TrainingClip]
) -> tuple[Finding, ...]:
    """Test clips that sound or look like training clips, each pair with the test clip first."""
    from moodfuse.extract.dataset.duplicates import Audited, fan_out_for, find_duplicates
    from moodfuse.extract.dataset.fingerprints import Marks, marks_of_peaks

    fan_out = fan_out_for(len(kept) + len(training))

    def audited(name: str, found: ClipMarks | TrainingClip) -> Audited:
        sound = marks_of_peaks(found.peak_times, found.peak_bins, fan_out=fan_out)
        return Audited(name, name, "", sound, Marks(found.frame_hashes, found.frame_times_s))

    names = [item.clip.id for item in kept if item.clip.id in marks]
    tested = [audited(f"test {name}", marks[name]) for name in names]
    known = [audited(f"training {clip.id}", clip) for clip in training]
    pairs = find_duplicates([*tested, *known])
    return tuple(
        item
        for item in pairs
        if item.kind in ("sound", "frames")
        and item.first.startswith("test ")
        and item.second.startswith("training ")
    )


def _unmarked(training: Sequence[TrainingClip]) -> int:
    """How many training clips have nothing left to compare a test clip with."""
    return sum(not len(clip.peak_times) and not len(clip.frame_hashes) for clip in training)


def _notes(model: Model, kept: Sequence[_Scored], alike: Sequence[Finding], *, refused: int) -> Iterator[str]:
    """What a reader of the report must know."""
    yield f"the model is {model.name}, {model.card.digest[:16]}"
    if refused:
        yield f"{refused} clips were not scored: seen in training, or not readable"
    if alike:
        names = sorted({item.first.removeprefix("test ") for item in alike})
        right = [item.clip.label == item.found.label for item in kept if item.clip.id not in names]
        rest = f"; without them accuracy is {np.mean(right):.3f} of {len(right)}" if right else ""
        yield f"{len(names)} clips sound or look like training clips ({', '.join(names[:5])}){rest}"


def _run(model: Model, kept: Sequence[_Scored], notes: Iterable[str]) -> Run:
    """The scored clips as a run of one fold and one result."""
    card = model.card
    result = Result(
        tuple(source.recipe.source for source in card.sources),
        card.head,
        card.level,
        np.stack([item.found.probabilities for item in kept]),
        notes=() if card.chosen else ("uncalibrated",),
    )
    missing = tuple((item.found.missing,) if item.found.missing else () for item in kept)
    return Run(
        name=f"test-of-{card.digest[:16]}",
        protocol=TEST,
        classes=card.classes,
        ids=tuple(item.clip.id for item in kept),
        labels=tuple(item.clip.label for item in kept),
        groups=tuple(item.group for item in kept),
        folds=(0,) * len(kept),
        fold_count=1,
        seed=0,
        recipes=tuple((source.recipe.source, source.recipe.digest16) for source in card.sources),
        results=(result,),
        notes=tuple(notes),
        digests=tuple(item.digest for item in kept),
        missing=missing if any(missing) else (),
        commands=card.commands,
        versions=tuple(card.versions.items()),
    )


def read_clips(data: Path, group_pattern: str | None, *, say: Say) -> list[Clip]:
    """The clips of a test set; `say` takes what was left out and why."""
    from moodfuse.extract.dataset.scan import scan_data

    found = scan_data(data, group_pattern=group_pattern)
    for line in found.messages:
        say(line)
    return held_out(found.clips)
