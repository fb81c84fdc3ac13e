"""Standardised rows in the axes of their own span, where a logistic regression is found in a few steps.

An L2 penalty is blind to rotation, so a fit over D columns is the same fit over the axes of the rows' own span: at most
as many as there are rows. Along these axes the columns do not correlate, and the curvature of the loss is nearly known
before the first step. The axes come from the products of the rows where columns are many, else from those of the
columns; both heads that ask for the same rows get them once. Of many rows no copy along the axes is made: what a fit
asks of them is computed from their columns, some thousands at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moodfuse.fuse.matrix import Values
from moodfuse.fuse.workers import one_thread

Floats = NDArray[np.float64]

_REMEMBERED = 4
"""Spans that are kept: those of a design matrix's training rows and of its inner folds."""
_LARGEST = 1 << 23
"""Rows of more bytes than these are not kept, nor is their span."""
_TALL = 4
"""Nor are more rows than so many times their columns: their span is found at little cost."""
_FEW = 1 << 20
"""Rows of so many numbers at most are held whole ..."""
_PIECE = 1 << 17
"""... and others taken piece by piece, of so many numbers each: a piece in float64 stays in the processor's cache."""
_NEGLIGIBLE = 1e-13
"""Axes of less than this share of the greatest squared length hold rounding errors alone."""


class Turned(Protocol):
    """Rows along axes, [N, R], as far as a fit asks for them."""

    @property
    def T(self) -> "Turned":
        """The axes along the rows, [R, N]."""

    def __matmul__(self, other: Floats, /) -> Floats:
        """The product with a matrix."""


@dataclass(frozen=True)
class FarRows:
    """Rows along axes, each time anew from their columns: ``(x - mean) @ axes``.

    Attributes
    ----------
    x : ndarray, shape (N, D)
    mean : ndarray of float64, shape (D,)
    axes : ndarray of float64, shape (D, R)
    """

    x: Values
    mean: Floats
    axes: Floats

    @property
    def T(self) -> "FarAxes":
        """The axes along the rows."""
        return FarAxes(self)

    def __matmul__(self, weights: Floats) -> Floats:
        """Scores [N, K] of weights [R, K]."""
        in_columns = self.axes @ weights
        return np.concatenate([piece @ in_columns for piece in _centred(self.x, self.mean)])


@dataclass(frozen=True)
class FarAxes:
    """`FarRows`, turned over."""

    rows: FarRows

    @property
    def T(self) -> FarRows:
        """The rows along the axes."""
        return self.rows

    def __matmul__(self, values: Floats) -> Floats:
        """Sums [R, K] over the rows, each times its values [N, K]."""
        found, start = np.zeros((self.rows.x.shape[1], values.shape[1])), 0
        for piece in _centred(self.rows.x, self.rows.mean):
            found += piece.T @ values[start : start + len(piece)]
            start += len(piece)
        product: Floats = self.rows.axes.T @ found
        return product


def pieces(x: Values) -> Iterator[Floats]:
    """Rows in float64, so many at a time that no copy of all is made; all at once where they are few."""
    step = _rows_at_once(x)
    for start in range(0, len(x), step):
        yield x[start : start + step].astype(np.float64, copy=False)


def _rows_at_once(x: Values) -> int:
    return max(1, _PIECE // x.shape[1]) if x.size > _FEW else len(x)


def _centred(x: Values, mean: Floats) -> Iterator[Floats]:
    """`pieces` less a mean, each in the memory of the one before.

    The mean goes first: far from 0 the products of the numbers as they are would lose digits.
    """
    step = _rows_at_once(x)
    piece = np.empty((min(step, len(x)), x.shape[1]))
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        yield np.subtract(rows, mean, out=piece[: len(rows)])


def scores_of(x: Values, mean: Floats, scale: Floats, weights: Floats, intercept: Floats) -> Floats:
    """Linear scores [N, K] of rows [N, D] by coefficients [K, D] and intercepts [K] in scaled columns."""
    if not len(x):
        return np.zeros((0, len(intercept)))
    return np.concatenate([piece / scale @ weights.T + intercept for piece in _centred(x, mean)])


@dataclass(frozen=True)
class Span:
    """Rows along orthogonal axes.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (D,)
        Rows were standardised by them: ``(x - mean) / scale``.
    rows : ndarray of float64, shape (N, R), or FarRows
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
    rows: Turned
    lengths: Floats
    basis: Floats
    sides: Floats | None

    def in_columns(self, weights: Floats) -> Floats:
        """Coefficients [K, R] along the axes as coefficients [K, D] of the standardised columns."""
        found: Floats = weights @ self.basis
        return found if self.sides is None else found @ self.sides


def scaling(x: Values) -> tuple[Floats, Floats]:
    """Mean, and deviation times the root of the number of columns; a constant column is left as it is."""
    mean = sum(piece.sum(axis=0) for piece in pieces(x)) / len(x)
    deviation = np.sqrt(sum(((piece - mean) ** 2).sum(axis=0) for piece in pieces(x)) / len(x))
    largest = np.max([np.abs(piece).max(axis=0) for piece in pieces(x)], axis=0)
    constant = deviation <= 10 * np.finfo(np.float64).eps * largest
    mean = np.where(constant, x[0], mean)  # whose rounding error would be all that the column says
    return mean, np.where(constant, 1.0, deviation) * np.sqrt(x.shape[1])


_spans: list[tuple[Values, Span]] = []


def span_of(x: Values) -> Span:
    """The span of some rows [N, D]; of rows that were asked for just before, the same one."""
    for place, (known, span) in enumerate(_spans):
        if known is x or (
            known.shape == x.shape and np.array_equal(known[0], x[0]) and np.array_equal(known, x)
        ):
            _spans.append(_spans.pop(place))
            return span
    span = _find(x)
    if x.nbytes <= _LARGEST and x.shape[0] <= _TALL * x.shape[1]:
        del _spans[: max(0, len(_spans) + 1 - _REMEMBERED)]
        _spans.append((x.copy(), span))
    return span


def _find(x: Values) -> Span:
    mean, scale = scaling(x)
    with one_thread():
        if x.shape[1] > x.shape[0]:
            standard = (x - mean) / scale
            lengths, found = _axes(standard @ standard.T)
            roots = np.sqrt(lengths)
            return Span(mean, scale, found * roots, lengths, (found / roots).T, standard)
        products = np.zeros((x.shape[1], x.shape[1]))
        for piece in pieces(x):
            standard = (piece - mean) / scale
            products += standard.T @ standard
        lengths, found = _axes(products)
        few = x.size <= _FEW
        rows: Turned = standard @ found if few else FarRows(x, mean, found / scale[:, None])
        return Span(mean, scale, rows, lengths, found.T, None)


def _axes(products: Floats) -> tuple[Floats, Floats]:
    """Squared lengths [R] of the axes that are more than rounding errors, and the axes [M, R]."""
    lengths, found = np.linalg.eigh(products)
    kept = lengths > _NEGLIGIBLE * max(lengths[-1], np.finfo(np.float64).tiny)
    return lengths[kept], found[:, kept]
