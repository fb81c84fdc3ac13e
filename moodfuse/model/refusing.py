"""Refusals of a model: from the error of a decoder, and as an error where somebody asks for predictions alone."""

from typing import TYPE_CHECKING

from moodfuse.cache.errors import InputError
from moodfuse.model.predictions import Prediction, Refusal

if TYPE_CHECKING:
    from moodfuse.extract.decoding import MediaError

NO_NUMBERS = "no_numbers"
"""Code of a refusal where a network's or the head's numbers are not finite."""


def answer_of(found: Prediction | Refusal) -> Prediction:
    """A prediction; of a refusal, its error."""
    from moodfuse.extract.decoding import MediaError

    if isinstance(found, Prediction):
        return found
    if found.code == NO_NUMBERS:
        raise InputError(f"{found.file}: {found.detail}")
    raise MediaError(found.code, found.file, found.found)


def refusal_of(file: str, error: "MediaError") -> Refusal:
    """A refusal as it is shown: why, and what was found."""
    return Refusal(file, error.code, error.sentence, error.detail)
