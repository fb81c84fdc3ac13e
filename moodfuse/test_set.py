"""Test a model on labelled clips. Training clips are refused, near copies of them are reported."""

from collections.abc import Callable, Mapping, Sequence
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
    """

    __test__ = False  # not a test class of pytest

    run: Run
    refused: tuple[str, ...]


@dataclass(frozen=True)
class _ScoredClip:
    clip: Clip
    digest: str
    group: str
    prediction: Prediction


def read_clips(data: Path, group_pattern: str | None, *, report: Report) -> list[Clip]:
    """Return the clips of the split ``test`` of a dataset, or all; `report` is called with each warning."""
    from moodfuse.extract.dataset.scan import scan_data

    scanned = scan_data(data, group_pattern=group_pattern)
    for line in scanned.messages:
        report(line)
    return [clip for clip in scanned.clips if clip.split == "test"] or list(scanned.clips)


def run_test(model: Model, clips: Sequence[Clip], *, jobs: int, report: Report) -> TestedModel:
    """Predict labelled clips that the model was not trained on.

    A clip is refused if the model was trained on it, on another window of its file, or on its group. A clip
    with the audio or frames of a training clip is scored and reported.

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
    files = hash_files(clips)
    reasons = training_overlaps(clips, files, training)
    new = [clip for clip in clips if clip.id not in reasons]
    groups = join_groups(clips, files)
    predictions, marks = _predict(model, new, mark_rules, jobs=jobs)
    scored = []
    for clip, prediction in zip(new, predictions, strict=True):
        if isinstance(prediction, Refusal):
            reasons[clip.id] = f"{prediction.code}: {prediction.detail}"
        else:
            digest = clip_digest(files[clip.id], clip.start_s, clip.end_s)
            scored.append(_ScoredClip(clip, digest, groups[clip.id], prediction))
    refused = tuple(f"{clip.id}: {reasons[clip.id]}" for clip in clips if clip.id in reasons)
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
    for finding in similar:
        report(f"WARNING {finding.first} is similar to {finding.second}, which the model was trained on")
    return TestedModel(_run(model, scored, notes), refused)


def training_overlaps(
    clips: Sequence[Clip], files: Mapping[str, str], training: Sequence[TrainingClip]
) -> dict[str, str]:
    """Return why clips overlap with the training clips, by id: the same clip, file or group.

    `files` are the digests of the clips' files by id, empty for files that cannot be read.
    """
    by_digest = {known.digest: known.id for known in training}
    by_file = {known.file_sha256: known.id for known in training}
    by_group = {known.group: known.id for known in training}
    reasons = {}
    for clip in clips:
        file = files[clip.id]
        digest = clip_digest(file, clip.start_s, clip.end_s)
        if digest in by_digest:
            reasons[clip.id] = f"the model was trained on this very clip, {by_digest[digest]}"
        elif file in by_file:
            reasons[clip.id] = f"the model was trained on a window of this file, {by_file[file]}"
        elif clip.group in by_group:
            known = by_group[clip.group]
            reasons[clip.id] = f"the model was trained on {known}, of the same group {clip.group!r}"
    return reasons


def _predict(
    model: Model, clips: Sequence[Clip], mark_rules: str, *, jobs: int
) -> tuple[list[Prediction | Refusal], dict[str, ClipMarks]]:
    """Return predictions of clips, and their audit marks if the model has marks by the same rules."""
    from moodfuse.extract.dataset.ingest import MARK_RULES, marks_of

    marks: dict[str, ClipMarks] = {}

    def keep_marks(number: int, decoded: "DecodedClip") -> None:
        if mark_rules == MARK_RULES:
            marks[clips[number].id] = marks_of(decoded)

    requests = [LabelRequest(clip.path, clip.start_s, clip.end_s) for clip in clips]
    return list(model.label(requests, jobs=jobs, explain=False, on_decoded=keep_marks)), marks


def _similar_clips(
    scored: Sequence[_ScoredClip], marks: dict[str, ClipMarks], training: Sequence[TrainingClip]
) -> tuple[Finding, ...]:
    """Return pairs of a test clip and a training clip with the same audio or frames."""
    from moodfuse.extract.dataset.duplicates import AuditedClip, find_duplicates

    tested = {f"test {row.clip.id}": marks[row.clip.id] for row in scored}
    trained = {
        f"training {clip.id}": ClipMarks(
            clip.peak_times, clip.peak_bins, clip.frame_hashes, clip.frame_times_s
        )
        for clip in training
    }
    return tuple(
        finding
        for finding in find_duplicates(
            [AuditedClip(name, name, "", clip_marks) for name, clip_marks in (tested | trained).items()]
        )
        if finding.kind in ("sound", "frames")
        and finding.first.startswith("test ")
        and finding.second.startswith("training ")
    )


def _notes(
    model: Model, scored: Sequence[_ScoredClip], similar: Sequence[Finding], *, refused: int
) -> list[str]:
    """Return the notes of the report."""
    notes = [f"the model is {model.name}, {model.card.digest[:16]}"]
    if refused:
        notes.append(f"{refused} clips were not scored: used in training, or not readable")
    if similar:
        names = sorted({finding.first.removeprefix("test ") for finding in similar})
        correct = [row.clip.label == row.prediction.label for row in scored if row.clip.id not in names]
        rest = f"; without them the accuracy is {np.mean(correct):.3f} of {len(correct)}" if correct else ""
        notes.append(f"{len(names)} clips sound or look like training clips ({', '.join(names[:5])}){rest}")
    return notes


def _run(model: Model, scored: Sequence[_ScoredClip], notes: Sequence[str]) -> Run:
    """Return the scored clips as a run of one fold and one result."""
    card = model.card
    result = Result(
        tuple(source.recipe.source for source in card.sources),
        card.head,
        card.level,
        np.stack([row.prediction.probabilities for row in scored]),
        notes=() if card.chosen else ("uncalibrated",),
    )
    missing = tuple((row.prediction.missing,) if row.prediction.missing else () for row in scored)
    return Run(
        name=f"test-of-{card.digest[:16]}",
        protocol=TEST,
        classes=card.classes,
        ids=tuple(row.clip.id for row in scored),
        labels=tuple(row.clip.label for row in scored),
        groups=tuple(row.group for row in scored),
        folds=(0,) * len(scored),
        fold_count=1,
        seed=0,
        recipes=tuple((source.recipe.source, source.recipe.digest16) for source in card.sources),
        results=(result,),
        notes=tuple(notes),
        digests=tuple(row.digest for row in scored),
        missing=missing if any(missing) else (),
        commands=card.commands,
        versions=tuple(card.versions.items()),
    )
