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
from moodfuse.cache.planning import PlanChoice
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
    """Whether a clip can be called so: bytes without NUL, and not none."""
    try:
        return (
            bool(text)
            and "\0" not in text
            and text == text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        )
    except UnicodeEncodeError:
        return False


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
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(("id", "label", *columns))
    writer.writerows(zip(ids, labels, *columns.values(), strict=True))
    file.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return file


def write_csv(file: Path, found: Given) -> None:
    """Numbers by `repr`, and logits by the name of their class, last class first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    classes = sorted(set(LABELS))
    order = list(range(len(classes)))[::-1]
    logits = [f"logit:{classes[place]}" for place in order] if found.logits is not None else []
    writer.writerow(("id", *(f"e{number}" for number in range(found.embedding.shape[1])), *logits))
    for row, name in enumerate(found.ids):
        numbers = [*found.embedding[row].tolist(), *(found.logits[row][order].tolist() if logits else [])]
        writer.writerow((name, *map(repr, numbers)))
    file.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


def write_parquet(file: Path, found: Given, *, flat: bool) -> None:
    """Ids as bytes; arrays as lists, or as columns."""
    columns: dict[str, Any] = {
        "id": pyarrow.array([name.encode("utf-8", "surrogateescape") for name in found.ids])
    }
    for name, values in found.arrays.items():
        values = values.astype(values.dtype.newbyteorder("="))
        heads = [f"e{number}" for number in range(values.shape[1])]
        if name == "logits":
            heads = [f"logit:{label}" for label in sorted(set(LABELS))]
        if flat:
            columns |= {head: pyarrow.array(values[:, place]) for place, head in enumerate(heads)}
        else:
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(
                pyarrow.array(values.reshape(-1)), values.shape[1]
            )
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def write(folder: Path, found: Given, form: str) -> dict[str, Path]:
    """The file, and what else of `ImportSettings` goes with it."""
    file = folder / f"features{form.removeprefix('flat')}"
    if form == ".npz":
        np.savez(file, id=np.array(found.ids), **found.arrays)
    elif form == ".npy":
        np.save(file, found.embedding)
        np.save(folder / "ids.npy", np.array([name.encode("utf-8", "surrogateescape") for name in found.ids]))
        return {"file": file, "ids": folder / "ids.npy"}
    elif form == ".csv":
        write_csv(file, found)
    else:
        write_parquet(file, found, flat=form != ".parquet")
    return {"file": file}


def bring(cache: Path, holdout: str = "*", source: str = "mine", **options: Any) -> Imported:
    """Import as the command does, with two folds."""
    options = {"plan": PlanChoice(2, 0) if options.get("labels") else PlanChoice(), **options}
    return import_features(ImportSettings(cache=cache, source=source, holdout=Holdout.of(holdout), **options))


def listing(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refuse(folder: Path, match: str, **options: Any) -> None:
    """Hold an import to a clear refusal that leaves a cache, and the place of a new one, as they were."""
    before = listing(folder)
    with pytest.raises(InputError, match=match):
        bring(folder / "known", **options)
    with pytest.raises(InputError):
        bring(folder / "new", **({"labels": folder / "labels.csv"} | options))
    assert listing(folder) == before and not (folder / "new").exists()
