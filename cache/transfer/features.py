"""Features as a file holds them, before they become a source, and the choice of a table's embedding columns."""

import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodfuse.cache.console import first_few, short_repr
from moodfuse.cache.csv_rows import check_columns
from moodfuse.cache.errors import InputError

LOGIT = "logit:"
"""Prefix of a column of logits; the class follows."""
NO_FEATURES = frozenset(("label", "group", "fold", "digest", "split", "path", "start_s", "end_s"))
"""Columns of exports and datasets, which are never guessed to be features."""
MIN_ROWS = 10
"""In fewer rows the values of a feature may number the rows, or determine the labels, by chance."""
_NUMBERED = re.compile(r"e(0|[1-9][0-9]*)")
_INDEX = re.compile(r"|unnamed: \d+(\.\d+|_level_\d+)*|index|level_\d+|__index_level_\d+__", re.IGNORECASE)
"""Names that pandas or R give to the index of a table."""
_MAX_VALUE_BYTES = 8
MAX_LISTED = 20
"""Messages list no more columns than this."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read, and which are ignored.

    `index` columns are ignored because they number the rows. `guessed` are the columns of the embedding that the user
    did not name: they are used because they hold numbers.
    """

    embedding: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class of each column of logits; `None` where there are none."""
        return tuple(name.removeprefix(LOGIT) for name in self.logits) or None

    def lines(self) -> list[str]:
        """One line for each use of columns."""
        uses = {
            "columns of the embedding": self.embedding,
            "index columns ignored": self.index,
            "columns ignored": self.ignored,
        }
        return [f"{use}: {first_few(names, count=MAX_LISTED)}" for use, names in uses.items() if names]


@dataclass(frozen=True)
class Features:
    """What a file of features holds, checked; see `checked_features`.

    Attributes
    ----------
    file : Path
    ids : sequence of str, length N
        Each once.
    arrays : mapping of str to ndarray of float32
        ``embedding`` [N, D] and, where there are any, ``logits`` [N, C]; all values are finite.
    classes : tuple of str or None
        Class of each column of the logits where the file names them; otherwise they are in sorted label order.
    columns : Columns
        Empty where the file holds arrays, not columns.
    """

    file: Path
    ids: Sequence[str]
    arrays: Mapping[str, np.ndarray]
    classes: tuple[str, ...] | None = None
    columns: Columns = Columns()


def checked_features(
    file: Path,
    ids: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    classes: tuple[str, ...] | None = None,
    columns: Columns | None = None,
) -> Features:
    """Features with float32 arrays; what a block cannot hold, and an id that occurs twice, is refused."""
    for name, values in arrays.items():
        if values.dtype.kind not in "iuf" or values.dtype.itemsize > _MAX_VALUE_BYTES:
            raise InputError(
                f"{file}: {name} is {values.dtype}; expected float16, float32, float64 or whole numbers"
            )
        if values.ndim != 2 or len(values) != len(ids) or not values.shape[1]:
            raise InputError(
                f"{file}: {name} is {list(values.shape)}, with {len(ids)} ids; expected [{len(ids)}, D], one row per "
                "clip and at least one column"
            )
    if classes is not None and ("logits" not in arrays or len(classes) != arrays["logits"].shape[1]):
        raise InputError(f"{file}: classes do not match the columns of logits")
    if len(set(ids)) < len(ids):
        first = next(name for name, count in Counter(ids).items() if count > 1)
        raise InputError(
            f"{file}: {len(ids) - len(set(ids))} id(s) occur twice (first: {short_repr(first)}); keep one row per clip"
        )
    narrow = {name: to_float32(values, ids, f"{file}: {name}") for name, values in arrays.items()}
    return Features(file, ids, narrow, classes, columns or Columns())


def to_float32(values: np.ndarray, ids: Sequence[str], where: str) -> np.ndarray:
    """Values [N, D] as float32; one that is not finite, or too large, is refused with its clip from `ids`."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float32)
    if not (finite := np.isfinite(narrow)).all():
        row, column = np.argwhere(~finite)[0].tolist()
        value = values[row, column]
        cause = "too large for float32" if np.isfinite(value) else "not finite"
        raise InputError(
            f"{where} of clip {short_repr(ids[row])} is {value} in column {column}, {cause}; correct it"
        )
    return narrow


# Choice of columns


def choose_columns(
    file: Path,
    names: Sequence[str],
    patterns: Sequence[str] = (),
    *,
    index: Collection[str] = (),
    texts: Collection[str] = (),
) -> Columns:
    """Choose the columns of the embedding and of the logits from all names in a table.

    The embedding is what `patterns` match: the user's names, patterns, or several of these separated by commas. Without
    them it is ``e0``, ``e1``, ... or, where there is no ``e0``, all numeric columns that are neither an index nor a
    column of an export. `index` and `texts` are columns known to be an index, or to hold no numbers.
    """
    check_columns(file, names, ("id",))
    candidates = [name for name in names if name != "id" and not name.startswith(LOGIT)]
    indexes = {name for name in candidates if name in index or _INDEX.fullmatch(name)}
    numeric = [
        name
        for name in candidates
        if name.lower() not in NO_FEATURES and name not in indexes and name not in texts
    ]
    guessed: Collection[str] = ()
    if patterns:
        embedding, guessed = _match_patterns(file, patterns, candidates, numeric)
    elif "e0" in candidates:
        embedding = _numbered_columns(file, candidates)
    else:
        embedding = guessed = tuple(numeric)
    if not embedding:
        raise InputError(f"{file}: has no embedding column; expected numbers in columns e0, e1, ...")
    unused = [name for name in candidates if name not in set(embedding)]
    return Columns(
        embedding=embedding,
        logits=tuple(name for name in names if name.startswith(LOGIT)),
        index=tuple(name for name in unused if name in indexes),
        ignored=tuple(name for name in unused if name not in indexes),
        guessed=frozenset(guessed),
    )


def _numbered_columns(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    numbered = {name for name in names if _NUMBERED.fullmatch(name)}
    embedding = tuple(f"e{number}" for number in range(len(numbered)))
    if missing := [name for name in embedding if name not in numbered]:
        raise InputError(
            f"{file}: column {missing[0]} is missing among e0 ... of {len(numbered)} embedding columns"
        )
    return embedding


def _match_patterns(
    file: Path, patterns: Sequence[str], names: Sequence[str], numeric: Sequence[str]
) -> tuple[tuple[str, ...], set[str]]:
    """The columns that the user asks for, and those of them that only a pattern matched.

    A pattern matches only columns that would be used without it; a full name can be any column.
    """
    matched: dict[str, None] = {}
    in_full: set[str] = set()
    for text in patterns:
        parts = (
            [text] if text in names else [part.strip() for part in text.split(",")]
        )  # names may have commas
        for part in filter(None, parts):
            if part in names:
                in_full.add(part)
            elif not fnmatch.filter(numeric, part):
                raise InputError(
                    f"{file}: --columns: unknown column {part!r}; known: {first_few(names, count=MAX_LISTED)}"
                )
            matched |= dict.fromkeys([part] if part in names else fnmatch.filter(numeric, part))
    return tuple(matched), set(matched) - in_full


def drop_row_numbers(file: Path, columns: Columns, embedding: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Move guessed columns of the embedding that number the rows, 0 to N-1 or 1 to N in any order, to the index."""
    keep = [
        name not in columns.guessed or not _numbers_rows(embedding[:, place])
        for place, name in enumerate(columns.embedding)
    ]
    if all(keep):
        return columns, embedding
    kept = tuple(name for name, is_kept in zip(columns.embedding, keep, strict=True) if is_kept)
    numbering = tuple(name for name in columns.embedding if name not in kept)
    if not kept:
        raise InputError(
            f"{file}: its only numeric columns number the rows ({first_few(numbering)}); add the features, or name "
            "these columns with --columns"
        )
    chosen = Columns(
        kept, columns.logits, (*columns.index, *numbering), columns.ignored, columns.guessed - set(numbering)
    )
    return chosen, embedding[:, keep]


def _numbers_rows(values: np.ndarray) -> bool:
    if len(values) < MIN_ROWS or (first := values.min()) not in (0, 1):
        return False
    return np.array_equal(np.sort(values), np.arange(first, first + len(values)))
