"""Standardised rows in the axes of their own span, where a logistic regression is found in a few steps.

An L2 penalty is blind to rotation, so a fit over D columns is the same fit over the axes of the rows' own span: at most
as many as there are rows. Along these axes the columns do not correlate, and the curvature of the loss is nearly known
before the first step. The axes come from the products of the rows where columns are many, else from those of the
columns; both heads that ask for the same rows get them once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuse.workers import one_thread

Floats = NDArray[np.float64]

_REMEMBERED = 4
"""Spans that are kept: those of a design matrix's training rows and of its inner folds."""
_LARGEST = 1 << 23
"""Rows of more bytes than these are not kept, nor is their span."""
_TALL = 4
"""Nor are more rows than so many times their columns: their span is found at little cost."""
_NEGLIGIBLE = 1e-13
"""Axes of less than this share of the greatest squared length hold rounding errors alone."""


@dataclass(frozen=True)
class Span:
    """Rows along orthogonal axes.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (D,)
        Rows were standardised by them: ``(x - mean) / scale``.
    rows : ndarray of float64, shape (N, R)
        The rows along R axes.
    lengths : ndarray of float64, shape (R,)
        Sum of squares along each axis.
    basis : ndarray of float64, shape (R, M)
        What the axes are made of ...
    sides : ndarray of float64, shape (M, D), or None
        ... as mixtures of these; `None` where `basis` holds the axes themselves.
    """

    mean: Floats
    scale: Floats
    rows: Floats
    lengths: Floats
    basis: Floats
    sides: Floats | None

    def in_columns(self, weights: Floats) -> Floats:
        """Coefficients [K, R] along the axes as coefficients [K, D] of the standardised columns."""
        found: Floats = weights @ self.basis
        return found if self.sides is None else found @ self.sides


def scaling(x: Floats) -> tuple[Floats, Floats]:
    """Mean, and deviation times the root of the number of columns; a constant column is left as it is."""
    deviation = x.std(axis=0)
    constant = deviation <= 10 * np.finfo(np.float64).eps * np.abs(x).max(axis=0)
    return x.mean(axis=0), np.where(constant, 1.0, deviation) * np.sqrt(x.shape[1])


_spans: list[tuple[Floats, Span]] = []


def span_of(x: Floats) -> Span:
    """The span of some rows [N, D]; of rows that were asked for just before, the same one."""
    for place, (known, span) in enumerate(_spans):
        if known is x or (known.shape == x.shape and np.array_equal(known[0], x[0]) and np.array_equal(known, x)):
            _spans.append(_spans.pop(place))
            return span
    span = _find(x)
    if x.nbytes <= _LARGEST and x.shape[0] <= _TALL * x.shape[1]:
        del _spans[: max(0, len(_spans) + 1 - _REMEMBERED)]
        _spans.append((x.copy(), span))
    return span


def _find(x: Floats) -> Span:
    mean, scale = scaling(x)
    with one_thread():
        standard = (x - mean) / scale
        wide = x.shape[1] > x.shape[0]
        lengths, found = np.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
        kept = lengths > _NEGLIGIBLE * max(lengths[-1], np.finfo(np.float64).tiny)
        lengths, found = lengths[kept], found[:, kept]
        if wide:
            roots = np.sqrt(lengths)
            return Span(mean, scale, found * roots, lengths, (found / roots).T, standard)
        return Span(mean, scale, standard @ found, lengths, found.T, None)
