"""Test a model on labelled clips. Training clips are refused, near copies of them are reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moodfuse.cache.audits import ClipMarks
from moodfuse.cache.digests import clip_digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import join_groups
from moodfuse.cache.recipe import MODALITY_NAMES
from moodfuse.cache.records import Clip
from moodfuse.cache.runs import Result, Run
from moodfuse.cache.terminal import track
from moodfuse.evaluate.evaluation import TEST
from moodfuse.model.folder import TRAINING, TrainingClip, read_training_clips
from moodfuse.model.model import Model
from moodfuse.model.predictions import LabelRequest, Prediction

if TYPE_CHECKING:
    from moodfuse.extract.decoding import DecodedClip

Report = Callable[[str], None]


@dataclass(frozen=True)
class TestedModel:
    """The predictions of a model on a test set: a run with one result, and the refused clips with reasons."""

    __test__ = False  # not a test class of pytest

    run: Run
    refused: tuple[str, ...]


def read_clips(data: Path, group_pattern: str | None, *, report: Report) -> list[Clip]:
    """Return the clips of the split ``test`` of a dataset, or all; `report` is called with each warning."""
    from moodfuse.extract.dataset.scan import scan_data

    scanned = scan_data(data, group_pattern=group_pattern)
    for line in scanned.messages:
        report(line)
    return [clip for clip in scanned.clips if clip.split == "test"] or list(scanned.clips)


def run_test(model: Model, clips: Sequence[Clip], *, jobs: int, report: Report) -> TestedModel:
    """Predict labelled clips that the model was not trained on, with `jobs` decoding processes.

    A clip is refused if the model was trained on it, on another window of its file, or on its group. A clip
    with the audio or frames of a training clip is scored and reported. `report` receives each line for the
    user.

    Raises
    ------
    InputError
        If a label is not one of the model's, or no clip is left to score.
    """
    from moodfuse.extract.dataset.ingest import MARK_RULES, compute_marks, hash_files

    if unknown := sorted({clip.label for clip in clips} - set(model.classes)):
        raise InputError(
            f"label {unknown[0]!r} is not one of the model's: {', '.join(model.classes)}; correct the labels"
        )
    mark_rules, training = read_training_clips(model.folder / TRAINING)
    files = hash_files(clips)
    reasons = training_overlaps(clips, files, training)
    new = [clip for clip in clips if clip.id not in reasons]
    marks: dict[str, ClipMarks] = {}

    def keep_marks(number: int, decoded: "DecodedClip") -> None:
        if mark_rules == MARK_RULES:
            marks[new[number].id] = compute_marks(decoded)

    requests = [LabelRequest(clip.path, clip.start_s, clip.end_s) for clip in new]
    predictions: dict[str, Prediction] = {}
    results = model.label(requests, jobs=jobs, explain=False, on_decoded=keep_marks)
    for clip, result in zip(new, track(results, total=len(new), what="Labelling"), strict=True):
        if isinstance(result, Prediction):
            predictions[clip.id] = result
        else:
            reasons[clip.id] = f"{result.code}: {result.detail}"
    refused = tuple(f"{clip.id}: {reasons[clip.id]}" for clip in clips if clip.id in reasons)
    for line in refused:
        report(f"refused {line}")
    if not predictions:
        raise InputError(f"none of the {len(clips)} clips can be scored; see the reasons above")
    scored = [clip for clip in clips if clip.id in predictions]
    notes = [f"the model is {model.name}, {model.card.digest[:16]}"]
    if refused:
        notes.append(f"{len(refused)} clips were not scored: used in training, or not readable")
    notes += _check_similarity(scored, predictions, marks, training, report=report)
    groups = join_groups(clips, files)
    return TestedModel(_make_run(model, scored, predictions, files, groups, notes), refused)


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


def _check_similarity(
    scored: Sequence[Clip],
    predictions: Mapping[str, Prediction],
    marks: Mapping[str, ClipMarks],
    training: Sequence[TrainingClip],
    *,
    report: Report,
) -> list[str]:
    """Report test clips that are similar to training clips, and return the notes on them."""
    notes = []
    similar = _find_similar({clip.id: marks[clip.id] for clip in scored}, training) if marks else {}
    for name, training_name in similar.items():
        report(f"WARNING {name} is similar to {training_name}, which the model was trained on")
    if similar:
        correct = [predictions[clip.id].label == clip.label for clip in scored if clip.id not in similar]
        rest = f"; without them the accuracy is {np.mean(correct):.3f} of {len(correct)}" if correct else ""
        names = ", ".join(sorted(similar)[:5])
        notes.append(f"{len(similar)} clips sound or look like training clips ({names}){rest}")
    has_marks = [bool(len(clip.marks.peak_times) or len(clip.marks.frame_hashes)) for clip in training]
    unmarked = has_marks.count(False) if marks else len(training)
    if unmarked:
        notes.append(f"similarity to {unmarked} of {len(training)} training clips could not be checked")
        report(f"WARNING {notes[-1]}")
    return notes


def _find_similar(clips: Mapping[str, ClipMarks], training: Sequence[TrainingClip]) -> dict[str, str]:
    """Return, for each test clip with the audio or frames of a training clip, the name of that clip."""
    from moodfuse.extract.dataset.duplicates import AuditedClip, find_duplicates

    marks = {f"test {name}": clip_marks for name, clip_marks in clips.items()}
    marks |= {f"training {clip.id}": clip.marks for clip in training}
    audited = [AuditedClip(name, name, "", clip_marks) for name, clip_marks in marks.items()]
    return {
        finding.first.removeprefix("test "): finding.second.removeprefix("training ")
        for finding in find_duplicates(audited)
        if finding.kind in ("sound", "frames")
        and finding.first.startswith("test ")
        and finding.second.startswith("training ")
    }


def _make_run(
    model: Model,
    clips: Sequence[Clip],
    predictions: Mapping[str, Prediction],
    files: Mapping[str, str],
    groups: Mapping[str, str],
    notes: Sequence[str],
) -> Run:
    """Return the scored clips as a run of one fold and one result."""
    card, rows = model.card, [predictions[clip.id] for clip in clips]
    result = Result(
        tuple(source.recipe.source for source in card.sources),
        card.head,
        card.level,
        np.stack([row.probabilities for row in rows]),
        notes=() if card.chosen else ("uncalibrated",),
    )
    recorded = {name: modality for modality, name in MODALITY_NAMES.items()}
    missing = tuple((recorded[row.missing],) if row.missing else () for row in rows)
    return Run(
        name=f"test-of-{card.digest[:16]}",
        protocol=TEST,
        classes=card.classes,
        ids=tuple(clip.id for clip in clips),
        labels=tuple(clip.label for clip in clips),
        groups=tuple(groups[clip.id] for clip in clips),
        folds=(0,) * len(clips),
        fold_count=1,
        seed=0,
        recipes=tuple((source.recipe.source, source.recipe.digest16) for source in card.sources),
        results=(result,),
        notes=tuple(notes),
        digests=tuple(clip_digest(files[clip.id], clip.start_s, clip.end_s) for clip in clips),
        missing=missing if any(missing) else (),
        commands=card.commands,
        versions=tuple(card.versions.items()),
    )
