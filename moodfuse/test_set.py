"""Test a model on labelled clips: clips that it was trained on are refused, near copies of them are reported."""

from collections.abc import Callable, Sequence
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
from moodfuse.model.model import Model
from moodfuse.model.predictions import LabelRequest, Prediction, Refusal

if TYPE_CHECKING:
    from moodfuse.extract.decoding import DecodedClip

Report = Callable[[str], None]


@dataclass(frozen=True)
class TestedModel:
    """The predictions of a model on a test set.

    Attributes
    ----------
    run : Run
        With one result, on the clips that were scored.
    refused : tuple of str
        Clips that were not scored, each with its reason.
    similar : tuple of Finding
        ScoredResult clips with the audio or frames of a training clip.
    """

    __test__ = False  # not a test class of pytest

    run: Run
    refused: tuple[str, ...]
    similar: tuple[Finding, ...]


@dataclass(frozen=True)
class _ScoredClip:
    clip: Clip
    digest: str
    group: str
    prediction: Prediction


def read_clips(data: Path, group_pattern: str | None, *, report: Report) -> list[Clip]:
    """The clips of a test set; `report` is called with what was left out, and why."""
    from moodfuse.extract.dataset.scan import scan_data

    scanned = scan_data(data, group_pattern=group_pattern)
    for line in scanned.messages:
        report(line)
    return held_out(scanned.clips)


def held_out(clips: Sequence[Clip]) -> list[Clip]:
    """The clips of the split ``test`` if a data set has any; else all."""
    return [clip for clip in clips if clip.split == "test"] or list(clips)


def run_test(model: Model, clips: Sequence[Clip], *, jobs: int, report: Report) -> TestedModel:
    """Predict labelled clips that the model was not trained on.

    A clip is refused if the model was trained on it, on another window of its file, or on its group. A clip with the
    audio or frames of a training clip is scored and reported.

    Parameters
    ----------
    model : Model
    clips : sequence of Clip
    jobs : int
        Decoding processes.
    report : callable of str
        Called with each line for the user.

    Raises
    ------
    InputError
        If a label is not one of the model's, or no clip is left to score.
    """
    from moodfuse.extract.dataset.ingest import hash_files

    if unknown := sorted({clip.label for clip in clips} - set(model.classes)):
        raise InputError(
            f"label {unknown[0]!r} is none of the model's: {', '.join(model.classes)}; correct the labels"
        )
    mark_rules, training = read_training(model.folder / TRAINING)
    files, seen = hash_files(clips), SeenClips(training)
    reasons = {clip.id: seen.reason(clip, files[clip.id]) for clip in clips}
    new = [clip for clip in clips if not reasons[clip.id]]
    groups = join_groups(clips, files)
    predictions, marks = _predict(model, new, mark_rules, jobs=jobs)
    scored = []
    for clip, prediction in zip(new, predictions, strict=True):
        if isinstance(prediction, Refusal):
            reasons[clip.id] = f"{prediction.code}: {prediction.detail}"
        else:
            digest = clip_digest(files[clip.id], clip.start_s, clip.end_s)
            scored.append(_ScoredClip(clip, digest, groups[clip.id], prediction))
    refused = tuple(f"{name}: {reason}" for name, reason in reasons.items() if reason)
    for line in refused:
        report(f"refused {line}")
    if not scored:
        raise InputError(f"none of the {len(clips)} clips can be scored; see the reasons above")
    similar = _similar_clips(scored, marks, training) if marks else ()
    notes = _notes(model, scored, similar, refused=len(refused))
    unmarked = [clip for clip in training if not (marks and (len(clip.peak_times) or len(clip.frame_hashes)))]
    if unmarked:
        notes.append(f"similarity to {len(unmarked)} of {len(training)} training clips could not be checked")
        report(f"WARNING {notes[-1]}")
    for item in similar:
        report(f"WARNING {item.first} is similar to {item.second}, which the model was trained on")
    return TestedModel(_run(model, scored, notes), refused, similar)


class SeenClips:
    """The clips that a model was trained on, by digest, file and group; of several the first."""

    def __init__(self, training: Sequence[TrainingClip]) -> None:
        backwards = training[::-1]
        self.by_digest = {clip.digest: clip.id for clip in backwards}
        self.by_file = {clip.file_sha256: clip.id for clip in backwards}
        self.by_group = {clip.group: clip.id for clip in backwards}

    def reason(self, clip: Clip, file_sha256: str) -> str:
        """Why a clip cannot test the model; empty if it can, or if its file cannot be read."""
        digest = clip_digest(file_sha256, clip.start_s, clip.end_s) if file_sha256 else ""
        if digest in self.by_digest:
            return f"the model was trained on this very clip, {self.by_digest[digest]}"
        if file_sha256 in self.by_file:
            return f"the model was trained on a window of this file, {self.by_file[file_sha256]}"
        if clip.group in self.by_group:
            return f"the model was trained on {self.by_group[clip.group]}, of the same group {clip.group!r}"
        return ""


def _predict(
    model: Model, clips: Sequence[Clip], mark_rules: str, *, jobs: int
) -> tuple[list[Prediction | Refusal], dict[str, ClipMarks]]:
    """Predictions of clips, and their audit marks where the model has marks by the same rules."""
    from moodfuse.extract.dataset.ingest import MARK_RULES, marks_of

    marks: dict[str, ClipMarks] = {}

    def keep_marks(number: int, decoded: "DecodedClip") -> None:
        if mark_rules == MARK_RULES:
            marks[clips[number].id] = marks_of(decoded)

    asks = [LabelRequest(clip.path, clip.start_s, clip.end_s) for clip in clips]
    return list(model.label(asks, jobs=jobs, explain=False, look=keep_marks)), marks


def _similar_clips(
    scored: Sequence[_ScoredClip], marks: dict[str, ClipMarks], training: Sequence[TrainingClip]
) -> tuple[Finding, ...]:
    """Pairs of a test clip and a training clip with the same audio or frames."""
    from moodfuse.extract.dataset.duplicates import AuditedClip, fan_out_for, find_duplicates
    from moodfuse.extract.dataset.fingerprints import Marks, marks_of_peaks

    fan_out = fan_out_for(len(scored) + len(training))

    def audited(name: str, clip: ClipMarks | TrainingClip) -> AuditedClip:
        peaks = marks_of_peaks(clip.peak_times, clip.peak_bins, fan_out=fan_out)
        return AuditedClip(name, name, "", peaks, Marks(clip.frame_hashes, clip.frame_times_s))

    names = [item.clip.id for item in scored if item.clip.id in marks]
    tested = [audited(f"test {name}", marks[name]) for name in names]
    known = [audited(f"training {clip.id}", clip) for clip in training]
    return tuple(
        item
        for item in find_duplicates([*tested, *known])
        if item.kind in ("sound", "frames")
        and item.first.startswith("test ")
        and item.second.startswith("training ")
    )


def _notes(
    model: Model, scored: Sequence[_ScoredClip], similar: Sequence[Finding], *, refused: int
) -> list[str]:
    """The notes of the report."""
    notes = [f"the model is {model.name}, {model.card.digest[:16]}"]
    if refused:
        notes.append(f"{refused} clips were not scored: used in training, or not readable")
    if similar:
        names = sorted({item.first.removeprefix("test ") for item in similar})
        right = [item.clip.label == item.prediction.label for item in scored if item.clip.id not in names]
        rest = f"; without them the accuracy is {np.mean(right):.3f} of {len(right)}" if right else ""
        notes.append(f"{len(names)} clips sound or look like training clips ({', '.join(names[:5])}){rest}")
    return notes


def _run(model: Model, scored: Sequence[_ScoredClip], notes: Sequence[str]) -> Run:
    """The scored clips as a run of one fold and one result."""
    card = model.card
    result = Result(
        tuple(source.recipe.source for source in card.sources),
        card.head,
        card.level,
        np.stack([item.prediction.probabilities for item in scored]),
        notes=() if card.chosen else ("uncalibrated",),
    )
    missing = tuple((item.prediction.missing,) if item.prediction.missing else () for item in scored)
    return Run(
        name=f"test-of-{card.digest[:16]}",
        protocol=TEST,
        classes=card.classes,
        ids=tuple(item.clip.id for item in scored),
        labels=tuple(item.clip.label for item in scored),
        groups=tuple(item.group for item in scored),
        folds=(0,) * len(scored),
        fold_count=1,
        seed=0,
        recipes=tuple((source.recipe.source, source.recipe.digest16) for source in card.sources),
        results=(result,),
        notes=tuple(notes),
        digests=tuple(item.digest for item in scored),
        missing=missing if any(missing) else (),
        commands=card.commands,
        versions=tuple(card.versions.items()),
    )
