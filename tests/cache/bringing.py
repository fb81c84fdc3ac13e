"""Files of features and tables of labels to import, and imports as the command makes them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.records import Holdout
from moodfuse.cache.transfer.importing import Imported, ImportSettings, import_features

FORMATS = (".npz", ".npy", ".csv", ".parquet", "flat.parquet")
LABELS = ("a", "b", "a", "b", "a", "b")
IDS = tuple(f"clip {number}" for number in range(len(LABELS)))


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

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of a table: e0, e1, ..., and logits by the name of their class."""
        named = {f"e{place}": values for place, values in enumerate(self.embedding.T)}
        logits = () if self.logits is None else self.logits.T
        return named | {f"logit:{label}": values for label, values in zip("ab", logits, strict=False)}


def write_labels(
    file: Path, ids: Sequence[str], labels: Sequence[str] = LABELS, **columns: Sequence[object]
) -> Path:
    """A table of labels."""
    return write_csv(file, [("id", "label", *columns), *zip(ids, labels, *columns.values(), strict=True)])


def write_csv(file: Path, rows: Sequence[Sequence[object]]) -> Path:
    """A table, quoted as a spreadsheet would."""
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(rows)
    return file


def write(folder: Path, given: Given, form: str) -> dict[str, Path]:
    """Write the features, and return the options of `ImportSettings` that name them."""
    file = folder / f"features{form.removeprefix('flat')}"
    if form == ".npz":
        np.savez(file, id=np.array(given.ids), **given.arrays)
    elif form == ".npy":
        np.save(file, given.embedding)
        np.save(folder / "ids.npy", np.array([name.encode("utf-8", "surrogateescape") for name in given.ids]))
        return {"file": file, "ids": folder / "ids.npy"}
    elif form == ".csv":
        rows = zip(given.ids, *(map(repr, values.tolist()) for values in given.columns.values()), strict=True)
        write_csv(file, [("id", *given.columns), *rows])
    else:
        arrays = {name: values.tolist() for name, values in given.arrays.items()}
        columns = given.columns if form == "flat.parquet" else arrays
        ids = [name.encode("utf-8", "surrogateescape") for name in given.ids]
        pyarrow.parquet.write_table(pyarrow.table({"id": ids, **columns}), file)
    return {"file": file}


def bring(cache: Path, holdout: str = "*", source: str = "mine", **options: Any) -> Imported:
    """Import as the command does, with two folds."""
    options = {"plan": PlanChoice(2, 0) if options.get("labels") else PlanChoice(), **options}
    return import_features(ImportSettings(cache=cache, source=source, holdout=Holdout.of(holdout), **options))


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refuse(folder: Path, match: str, **options: Any) -> None:
    """Expect an error that leaves the cache ``known`` as it is."""
    before = listing(folder)
    with pytest.raises(InputError, match=match):
        bring(folder / "known", **options)
    assert listing(folder) == before
