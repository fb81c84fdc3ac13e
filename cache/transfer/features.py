"""Features as a file brings them, before they are a source: ids and arrays, held to what a block can be."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError

WIDEST_BYTES = 8
_BYTES_AT_ONCE = 1 << 24
_SHOWN, _NAMED = 60, 3
_LISTED = 20


@dataclass(frozen=True)
class Features:
    """What a file of features holds.

    Attributes
    ----------
    file : Path
    ids : sequence of str, length N
        Each once; in the form that the manifest has them, see `plain_id`.
    embedding : ndarray of float or int, shape (N, D)
    logits : ndarray of float or int, shape (N, C), or None
    classes : tuple of str or None
        Class of each column of `logits` where the file names them; else they are in sorted label order.
    passed_over : tuple of str
        Columns of the file that were not read.
    columns : tuple of str
        Columns that the embedding is made of, where it is not one array in the file.
    index_columns : tuple of str
        Columns that were not read because they number the rows.
    guessed : frozenset of str
        Those of `columns` that the user did not name: they are taken because they hold numbers.
    """

    file: Path
    ids: Sequence[str]
    embedding: np.ndarray
    logits: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    passed_over: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    index_columns: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, values in self.arrays.items():
            check_kind(values.dtype, f"{self.file}: {name}")
            if values.ndim != 2 or len(values) != len(self.ids) or not values.shape[1]:
                raise InputError(
                    f"{self.file}: {name} is {list(values.shape)} beside {len(self.ids)} ids; expected "
                    f"[{len(self.ids)}, D], one row a clip and one column or more"
                )
        if self.classes is not None and (self.logits is None or len(self.classes) != self.logits.shape[1]):
            raise InputError(f"{self.file}: classes do not fit the columns of logits")
        if len(self.places) < len(self.ids):
            first = next(text for row, text in enumerate(self.ids) if self.places[text] != row)
            raise InputError(
                f"{self.file}: {len(self.ids) - len(self.places)} id(s) stand there twice (first: {shown(first)}); "
                "keep one row a clip"
            )

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name; no ``logits`` where there are none."""
        return {"embedding": self.embedding} | ({} if self.logits is None else {"logits": self.logits})

    @property
    def column_lines(self) -> list[str]:
        """Which columns of a table became the embedding and which did not, in words."""
        named = (
            ("columns of the embedding", self.columns),
            ("index columns passed over", self.index_columns),
            ("columns passed over", self.passed_over),
        )
        return [f"{what}: {listed(columns)}" for what, columns in named if columns]

    @cached_property
    def places(self) -> dict[str, int]:
        """Row of each id."""
        return {text: row for row, text in enumerate(self.ids)}

    def rows(self, places: NDArray[np.int64]) -> dict[str, np.ndarray]:
        """Some rows of every array as float32.

        Raises
        ------
        InputError
            If a value is not finite, or too large for float32; it names the clip.
        """

        def name_of(row: int) -> str:
            return self.ids[int(places[row])]

        return {
            name: narrowed(values[places], f"{self.file}: {name}", name_of)
            for name, values in self.arrays.items()
        }

    def check_values(self) -> None:
        """Look at every value.

        Raises
        ------
        InputError
            As `rows`.
        """
        size = max(
            1, _BYTES_AT_ONCE // sum(WIDEST_BYTES * values.shape[1] for values in self.arrays.values())
        )
        for start in range(0, len(self.ids), size):
            self.rows(np.arange(start, min(start + size, len(self.ids))))


def check_kind(dtype: np.dtype, where: str) -> None:
    """Refuse numbers that a feature is not made of: complex, bool, text, objects, more than 64 bits.

    Raises
    ------
    InputError
    """
    if dtype.kind not in "iuf" or dtype.itemsize > WIDEST_BYTES:
        raise InputError(f"{where} is {dtype}; expected float16, float32, float64 or whole numbers")


def narrowed(values: np.ndarray, where: str, name_of: Callable[[int], str]) -> np.ndarray:
    """Values [n, D] as float32, each rounded to the nearest; `name_of` gives the clip of a row for messages.

    Raises
    ------
    InputError
        If one is not finite, or too large; it names the clip.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.astype(np.float32, copy=False)
    if (finite := np.isfinite(found)).all():
        return found
    row, column = np.argwhere(~finite)[0].tolist()
    value = values[row, column]
    cause = "too large for float32" if np.isfinite(value) else "not finite"
    raise InputError(
        f"{where} of clip {shown(name_of(row))} is {value} in column {column}, {cause}; correct it"
    )


def plain_id(text: str, file: Path) -> str:
    """An id in the form that the manifest has it: bytes that are no UTF-8 by ``surrogateescape``.

    Raises
    ------
    InputError
        If it is no text in any encoding.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{file}: id {shown(text)} holds half of a surrogate pair, which is no text"
        ) from error


def shown(text: str) -> str:
    """An id as messages show it, on one line and not too long."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def first_few(texts: Iterable[str]) -> str:
    """The first three of some ids."""
    few = [shown(text) for text, _ in zip(texts, range(_NAMED + 1), strict=False)]
    return ", ".join(few[:_NAMED]) + (", ..." if len(few) > _NAMED else "")


def listed(names: Sequence[str]) -> str:
    """Names of columns in full or, of more than 20, how many and the first and the last."""
    if len(names) > _LISTED:
        return f"{len(names)}, from {shown(names[0])} to {shown(names[-1])}"
    return ", ".join(map(shown, names))
