"""Files of features and tables of labels to import, and imports as the command makes them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.records import Holdout
from moodfuse.cache.transfer.importing import Imported, ImportSettings, import_features

FORMATS = (".npz", ".npy", ".csv", ".parquet", "flat.parquet")
LABELS = ("a", "b", "a", "b", "a", "b")
IDS = tuple(f"clip {number}" for number in range(len(LABELS)))
bounded = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NASTY = st.text(
    st.sampled_from("ab \t\"'\n\r,;=-+@#é漢\u2028\ufeff\x1f\udc80\udcff"), min_size=1, max_size=12
)
ANY_ID = (
    NASTY
    | st.text(min_size=0, max_size=8)
    | st.sampled_from(["", "\0", "x" * 3000, "\ud800", "\udce9t\udce9"])
)


def is_name(text: str) -> bool:
    """Whether a clip can have this id: bytes without NUL, and at least one."""
    try:
        same = text == text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return bool(text) and "\0" not in text and same


@dataclass(frozen=True)
class Given:
    """A file of features to write."""

    ids: Sequence[str]
    embedding: np.ndarray
    logits: np.ndarray | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {"embedding": self.embedding} | ({} if self.logits is None else {"logits": self.logits})


def write_labels(
    file: Path, ids: Sequence[str], labels: Sequence[str] = LABELS, **columns: Sequence[object]
) -> Path:
    """A table of labels, quoted as a spreadsheet would."""
    rows = [("id", "label", *columns), *zip(ids, labels, *columns.values(), strict=True)]
    return _write_rows(file, rows)


def _write_rows(file: Path, rows: Sequence[Sequence[object]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    file.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return file


def write_csv(file: Path, given: Given) -> None:
    """Numbers by `repr`, and logits by the name of their class, last class first."""
    logits = [] if given.logits is None else [f"logit:{label}" for label in sorted(set(LABELS))][::-1]
    values = given.embedding.tolist()
    if given.logits is not None:
        values = [[*one, *other] for one, other in zip(values, given.logits[:, ::-1].tolist(), strict=True)]
    header = ("id", *(f"e{number}" for number in range(given.embedding.shape[1])), *logits)
    rows = [(name, *map(repr, numbers)) for name, numbers in zip(given.ids, values, strict=True)]
    _write_rows(file, [header, *rows])


def write_parquet(file: Path, given: Given, *, flat: bool) -> None:
    """Ids as bytes; arrays as lists, or as columns."""
    columns: dict[str, Any] = {
        "id": pyarrow.array([name.encode("utf-8", "surrogateescape") for name in given.ids])
    }
    for name, values in given.arrays.items():
        values = values.astype(values.dtype.newbyteorder("="))
        if flat:
            labels = sorted(set(LABELS))
            heads = [f"e{n}" if name == "embedding" else f"logit:{labels[n]}" for n in range(values.shape[1])]
            columns |= {head: pyarrow.array(values[:, place]) for place, head in enumerate(heads)}
        else:
            flat_values = pyarrow.array(values.reshape(-1))
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat_values, values.shape[1])
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def write(folder: Path, given: Given, form: str) -> dict[str, Path]:
    """The file, and what else of `ImportSettings` goes with it."""
    file = folder / f"features{form.removeprefix('flat')}"
    if form == ".npz":
        np.savez(file, id=np.array(given.ids), **given.arrays)
    elif form == ".npy":
        np.save(file, given.embedding)
        np.save(folder / "ids.npy", np.array([name.encode("utf-8", "surrogateescape") for name in given.ids]))
        return {"file": file, "ids": folder / "ids.npy"}
    elif form == ".csv":
        write_csv(file, given)
    else:
        write_parquet(file, given, flat=form != ".parquet")
    return {"file": file}


def bring(cache: Path, holdout: str = "*", source: str = "mine", **options: Any) -> Imported:
    """Import as the command does, with two folds."""
    options = {"plan": PlanChoice(2, 0) if options.get("labels") else PlanChoice(), **options}
    return import_features(ImportSettings(cache=cache, source=source, holdout=Holdout.of(holdout), **options))


def listing(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refuse(folder: Path, match: str, **options: Any) -> None:
    """Expect a clear refusal of an import that leaves a cache, and the path of a new one, unchanged."""
    before = listing(folder)
    with pytest.raises(InputError, match=match):
        bring(folder / "known", **options)
    with pytest.raises(InputError):
        bring(folder / "new", **({"labels": folder / "labels.csv"} | options))
    assert listing(folder) == before and not (folder / "new").exists()
