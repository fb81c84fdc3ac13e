"""The clips of a data set as one immutable table: a row a clip, columns of arrays, by id.

A `ClipTable` reads as a sequence of `ClipStatus`; a record is made when it is asked for, so that a million rows stay
columns. On disk it is one part; `cache/FORMAT.md` names its arrays.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.columns import Digests, Texts
from moodfuse.cache.digests import content_digest
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.storage.parts import check_dtypes

WHOLE = ("id", "path", "digest", "file_sha256", "group", "declared_group")
"""Columns of text whose rows mostly differ: `<name>` holds the bytes, `<name>_ends` where each row ends."""
CODED = ("label", "split", "reason", "detail", "decoder", "missing")
"""Columns of few different texts: the same two arrays for these, and `<name>_row` for which of them each row has."""
NUMBERS = {
    "grouped": np.bool_,
    "start_s": np.float64,
    "end_s": np.float64,
    "declared_fold": np.int64,
    "ok": np.bool_,
    "duration_s": np.float64,
}
"""Columns of numbers; `end_s` is NaN and `declared_fold` -1 where the data set names none."""
ATTRIBUTES: dict[str, object] = {"format": "moodfuse-clips"}
_KEPT = 10_000
"""Records of a table of so many rows at most are made once and kept."""


@dataclass(frozen=True, eq=False)
class ClipTable(Sequence[ClipStatus]):
    """Statuses as columns.

    Attributes
    ----------
    texts : mapping of str to Texts
        `WHOLE` columns, and the different values of `CODED` ones.
    rows : mapping of str to ndarray of int32, shape (N,)
        Which value each row of a `CODED` column has.
    numbers : mapping of str to ndarray, shape (N,)
    """

    texts: Mapping[str, Texts]
    rows: Mapping[str, NDArray[np.int32]]
    numbers: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, statuses: Iterable[ClipStatus]) -> "ClipTable":
        """The table of some statuses, sorted by id; of a table, itself."""
        if isinstance(statuses, ClipTable):
            return statuses
        found = sorted(statuses, key=lambda status: status.clip.id)
        values = list(map(_values, found))
        texts = {name: Texts.of(str(value[name]) for value in values) for name in WHOLE}
        rows = {}
        for name in CODED:
            column = [str(value[name]) for value in values]
            known = {text: place for place, text in enumerate(sorted(set(column)))}
            texts[name] = Texts.of(known)
            rows[name] = np.array([known[text] for text in column], dtype=np.int32)
        numbers: dict[str, NDArray[Any]] = {
            name: np.array([value[name] for value in values], dtype=kind) for name, kind in NUMBERS.items()
        }
        return cls(texts, rows, numbers)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the part."""
        arrays: dict[str, np.ndarray] = dict(self.numbers)
        for name, text in self.texts.items():
            arrays |= {name: text.data, f"{name}_ends": text.ends}
        return arrays | {f"{name}_row": rows for name, rows in self.rows.items()}

    @classmethod
    def from_arrays(
        cls,
        file: Path,
        arrays: Mapping[str, np.ndarray],
        *,
        names: Collection[str] = (*WHOLE, *CODED, *NUMBERS),
    ) -> "ClipTable":
        """The table of a part's arrays.

        Parameters
        ----------
        file : Path
            For messages.
        arrays : mapping of str to ndarray
        names : collection of str
            The columns that are taken.

        Raises
        ------
        DamagedPartError
            If a column is missing, or of another dtype or length.
        """
        wanted = [name for name in (*WHOLE, *CODED) if name in names]
        coded = [name for name in CODED if name in names]
        check_dtypes(file, arrays, dict.fromkeys(wanted, ("|u1", 1)))
        check_dtypes(file, arrays, {f"{name}_ends": ("<i8", 1) for name in wanted})
        check_dtypes(file, arrays, {f"{name}_row": ("<i4", 1) for name in coded})
        check_dtypes(
            file, arrays, {name: (np.dtype(NUMBERS[name]).str, 1) for name in NUMBERS if name in names}
        )
        try:
            texts = {name: Texts(arrays[name], arrays[f"{name}_ends"]) for name in wanted}
        except ValueError as error:
            raise DamagedPartError(f"{file}: {error}") from error
        rows = {name: arrays[f"{name}_row"] for name in coded}
        for name, row in rows.items():
            if len(row) and not 0 <= row.min() <= row.max() < len(texts[name]):
                raise DamagedPartError(f"{file}: {name}_row names texts that are not there")
        numbers = {name: arrays[name] for name in NUMBERS if name in names}
        whole = (len(texts[name]) for name in wanted if name in WHOLE)
        lengths = {*map(len, numbers.values()), *map(len, rows.values()), *whole}
        if len(lengths) != 1:
            raise DamagedPartError(f"{file}: columns of {sorted(lengths)} rows")
        return cls(texts, rows, numbers)

    @cached_property
    def digest(self) -> str:
        """Digest of the content, as its part has it."""
        return content_digest(self.to_arrays(), ATTRIBUTES)

    @property
    def ids(self) -> Texts:
        """Clip ids."""
        return self.texts["id"]

    @property
    def digests(self) -> Digests:
        """Clip digests, S64 [N]; empty for a file that could not be read."""
        return self._digests

    @cached_property
    def _digests(self) -> Digests:
        return self.texts["digest"].digests()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        values, rows = self.texts["label"], self.rows["label"]
        return tuple(sorted(values[int(place)] for place in np.unique(rows)))

    def where(self, name: str, value: str) -> NDArray[np.bool_]:
        """Which rows of a `CODED` column hold a value, bool [N]."""
        known = list(self.texts[name])
        return self.rows[name] == (known.index(value) if value in known else -1)

    def take(self, chosen: NDArray[np.bool_]) -> "ClipTable":
        """The rows chosen by a mask [N], in their order."""
        if chosen.all():
            return self
        places = np.flatnonzero(chosen)
        return ClipTable(
            {name: text if name in CODED else text.take(places) for name, text in self.texts.items()},
            {name: rows[places] for name, rows in self.rows.items()},
            {name: values[places] for name, values in self.numbers.items()},
        )

    def __len__(self) -> int:
        return len(self.numbers["ok"])

    @overload
    def __getitem__(self, place: int) -> ClipStatus: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[ClipStatus, ...]: ...
    def __getitem__(self, place: int | slice) -> ClipStatus | tuple[ClipStatus, ...]:
        if isinstance(place, slice):
            return tuple(self[index] for index in range(len(self))[place])
        if len(self) <= _KEPT:
            return self._records[place]
        index = range(len(self))[place]
        values: dict[str, object] = {name: self.texts[name][index] for name in WHOLE}
        values |= {name: self.texts[name][int(self.rows[name][index])] for name in CODED}
        values |= {name: column[index].item() for name, column in self.numbers.items()}
        return _status(values)

    def __iter__(self) -> Iterator[ClipStatus]:
        return iter(self._records) if len(self) <= _KEPT else self._made()

    @cached_property
    def _records(self) -> tuple[ClipStatus, ...]:
        return tuple(self._made())

    def _made(self) -> Iterator[ClipStatus]:
        few = {name: tuple(self.texts[name]) for name in CODED}
        whole = zip(*(self.texts[name] for name in WHOLE), strict=True)
        for index, texts in enumerate(whole):
            values: dict[str, object] = dict(zip(WHOLE, texts, strict=True))
            values |= {name: few[name][self.rows[name][index]] for name in CODED}
            values |= {name: column[index].item() for name, column in self.numbers.items()}
            yield _status(values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ClipTable):
            return self.digest == other.digest
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __getstate__(self) -> dict[str, object]:
        return {"texts": self.texts, "rows": self.rows, "numbers": self.numbers}


def _values(status: ClipStatus) -> dict[str, object]:
    clip = status.clip
    return {
        "id": clip.id,
        "path": clip.path,
        "label": clip.label,
        "declared_group": clip.group or "",
        "grouped": clip.group is not None,
        "start_s": clip.start_s,
        "end_s": np.nan if clip.end_s is None else clip.end_s,
        "declared_fold": -1 if clip.fold is None else clip.fold,
        "split": clip.split,
        **{
            name: getattr(status, name)
            for name in ("digest", "file_sha256", "group", "ok", "reason", "detail")
        },
        **{name: getattr(status, name) for name in ("duration_s", "decoder", "missing")},
    }


def _status(values: dict[str, object]) -> ClipStatus:
    end_s, fold = values["end_s"], values["declared_fold"]
    clip = Clip(
        id=values["id"],  # type: ignore[arg-type]
        path=values["path"],  # type: ignore[arg-type]
        label=values["label"],  # type: ignore[arg-type]
        group=values["declared_group"] if values["grouped"] else None,  # type: ignore[arg-type]
        start_s=values["start_s"],  # type: ignore[arg-type]
        end_s=None if end_s != end_s else end_s,  # type: ignore[arg-type]
        fold=None if fold == -1 else fold,  # type: ignore[arg-type]
        split=values["split"],  # type: ignore[arg-type]
    )
    names = ("digest", "file_sha256", "group", "ok", "reason", "detail", "duration_s", "decoder", "missing")
    return ClipStatus(clip, **{name: values[name] for name in names})  # type: ignore[arg-type]
