"""Records of published figures. The figures themselves stand in a module for each publication."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Matrix = tuple[tuple[int, ...], ...]
"""Clips, true class by predicted class."""


@dataclass(frozen=True)
class PublishedScore:
    """One published row: accuracy, macro F1 and area under the curve, each in [0, 1]."""

    accuracy: float
    macro_f1: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published figures.

    Attributes
    ----------
    name, citation : str
    clips : int
        Clips that every figure stands on.
    classes : tuple of str
        Class axis of `matrix`, in lower case.
    networks : mapping of (network, optimizer) to PublishedScore
    optimizers : mapping of recipe to mapping of network to optimizer
        Which of our recipes repeats which published row; the first that does is the one to run.
    fusions : mapping of sorted networks to PublishedScore
    matrix_of : tuple of str
        The fusion whose confusion matrix is published.
    matrix : tuple of tuple of int
        Clips, true class by predicted class.
    head, level : str
        How the published fusions were made, in our words.
    fuse_options : str
        Options of ``moodfuse fuse`` that make the published fusions.
    caveats : tuple of str
        What a reader must know of how the figures were found.
    """

    name: str
    citation: str
    clips: int
    classes: tuple[str, ...]
    networks: Mapping[tuple[str, str], PublishedScore]
    optimizers: Mapping[str, Mapping[str, str]]
    fusions: Mapping[tuple[str, ...], PublishedScore]
    matrix_of: tuple[str, ...]
    matrix: Matrix
    head: str
    level: str
    fuse_options: str
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class ClassCounts:
    """A confusion matrix.

    Attributes
    ----------
    who : str
        Name of the published figures, or ``"ours"``.
    how : str
        Head, level and recipe.
    counts : tuple of tuple of int
        Clips, true class by predicted class.
    """

    who: str
    how: str
    counts: Matrix

    @property
    def clips(self) -> int:
        """Number of clips."""
        return int(np.sum(self.counts))

    @property
    def diagonal(self) -> int:
        """Number of clips whose predicted class is the true one."""
        return int(np.trace(self.counts))

    @property
    def accuracy(self) -> float:
        """Accuracy that follows from the counts."""
        return self.diagonal / self.clips

    @property
    def macro_f1(self) -> float:
        """Macro F1 that follows from the counts: the mean over classes of 2 TP / (true + predicted)."""
        table = np.array(self.counts)
        return float(np.mean(2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))))
