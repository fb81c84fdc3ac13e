"""A model in words: the `MODEL.md` of its folder."""

from collections.abc import Iterable, Iterator
from typing import Any

from moodfuse.evaluate.markup import markdown_text
from moodfuse.model.card import ModelCard

_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "auc": "AUC, macro one-vs-rest",
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
}


def described(card: ModelCard) -> str:
    """What a person who finds the folder must know, as Markdown."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: ModelCard) -> Iterator[str]:
    training = card.training
    yield f"# {markdown_text(card.name)}"
    yield ""
    yield f"A moodfuse model that tells the emotion of music videos: {_names(card.classes)}."
    yield ""
    yield "    moodfuse predict --model DIR FILE..."
    yield ""
    sources = _names(source.recipe.source for source in card.sources)
    yield f"- sources: {sources}; head {markdown_text(card.head)} on {card.level}"
    yield f"- trained on {training['clips']} clips in {training['groups']} groups: " + ", ".join(
        f"{markdown_text(label)} {count}" for label, count in training["labels"].items()
    )
    sure = "calibrated" if card.chosen else "NOT calibrated: nothing could be chosen out of sample"
    yield f"- probabilities are {sure}"
    yield f"- {_missing_words(card)}"
    yield ""
    yield "## What to expect"
    yield ""
    yield (
        f"Cross-validated ({markdown_text(card.protocol)}) on {card.expected['clips']} clips in "
        f"{card.expected['groups']} groups, "
        "with 95 % intervals over groups. They answer for clips like those."
    )
    yield ""
    yield "| metric | value | 95 % interval |"
    yield "| --- | --- | --- |"
    for name, shown in _NAMES.items():
        yield f"| {shown} | {_number(card.expected[name])} | {_ends(card.expected[f'{name}_ci95'])} |"
    if "best_corrected" in card.expected:
        yield ""
        yield (
            f"{card.expected['results']} results were scored on these same clips, so whoever picks one after seeing "
            "them is flattered by its figures, by an amount that was not measured for this pick. For another it was: "
            "the most accurate of all, corrected for the choice, is right for "
            f"{_number(card.expected['best_corrected'])} {_ends(card.expected['best_corrected_ci95'])} of new clips."
        )
    for note in card.notes:
        yield ""
        yield f"Note: {markdown_text(note)}."


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(markdown_text, names))


def _missing_words(card: ModelCard) -> str:
    """What is done with a file without an audio or a video stream."""
    if card.impute:
        return (
            "files without audio or without video are labelled; what they lack is replaced by training means"
        )
    if len(card.views) > 1:
        return "files without audio or without video are refused"
    read, other = ("audio", "video") if card.views == {"sound"} else ("video", "audio")
    return (
        f"the model reads {read} only: files without {other} are labelled, files without {read} are refused"
    )


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ends(values: Any) -> str:
    return f"[{', '.join(_number(value) for value in values)}]"
