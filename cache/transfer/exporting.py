"""A source's features as one file for others: `moodfuse cache export`, to ``.npz``, ``.csv`` or ``.parquet``.

Every value comes back bit for bit when the file is imported. The file is written aside and moved into place whole.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.records import Holdout
from moodfuse.cache.storage.files import TEMPORARY_PREFIX, refused, sync_folder
from moodfuse.cache.storage.layout import UNKNOWN, is_ours, kind_of
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.readers import LOGIT

_VALUES_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Exported:
    """What is written, a row a clip, by id.

    Attributes
    ----------
    texts : dict of str to sequence of str
        ``id``, ``label``, ``group`` (in force) and ``digest``, length N.
    folds : ndarray of int64, shape (N,)
        Fold of each clip in the plan in force.
    arrays : dict of str to ndarray of float32
        ``embedding`` [N, D] and, where the source has them, ``logits`` [N, C].
    classes : tuple of str
        Class of each column of the logits.
    left_out : int
        Clips of the plan that lack what the source reads, and so have no row.
    """

    texts: dict[str, Sequence[str]]
    folds: np.ndarray
    arrays: dict[str, np.ndarray]
    classes: tuple[str, ...]
    left_out: int = 0


def export_features(
    cache: FeatureCache, source: str, holdout: Holdout | None, output: Path, *, force: bool = False
) -> Exported:
    """Write the features of a source under one holdout.

    Parameters
    ----------
    cache : FeatureCache
    source : str
    holdout : Holdout or None
        `None` for ``*``, which only a source that saw no label has.
    output : Path
        Its suffix is the format.
    force : bool
        Replace a file that is there.

    Raises
    ------
    InputError
        If the suffix is unknown, the file exists or would stand among the cache's own, or the source needs a holdout.
    MissingBlockError
        If the features are not in the cache.
    """
    suffix = output.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"{output}: suffix {suffix!r} is not known; expected one of {', '.join(WRITERS)}")
    if output.exists() and not force:
        raise InputError(f"{output} exists; name another --output, or replace it with --force")
    _check_outside(cache.path, output)
    if holdout is None and cache.recipe(source).sees_labels:
        raise InputError(f"{source} has features of several holdouts; name one, such as --holdout '{{0}}'")
    found = _collect(cache, source, holdout or Holdout.frozen())
    with _aside(
        output.resolve() if output.is_symlink() else output
    ) as stream:  # what a link leads to is replaced
        WRITERS[suffix](stream, found)
    return found


def _check_outside(root: Path, output: Path) -> None:
    """Refuse a place that is the cache's own."""
    try:
        place = output.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return
    if kind_of(place) != UNKNOWN or is_ours(place.split("/")[0]):
        raise InputError(f"{output}: is a place of the cache's own files; name an --output outside of {root}")


def _collect(cache: FeatureCache, source: str, holdout: Holdout) -> Exported:
    block = cache.block(source, holdout)
    absent = np.array([digest in block.absent for digest in block.digests], dtype=bool)
    clips = [status for status, gone in zip(cache.clips, absent, strict=True) if not gone]
    digests = [status.digest for status in clips]
    arrays = {"embedding": block.embedding} | ({} if block.logits is None else {"logits": block.logits})
    return Exported(
        texts={
            "id": [status.clip.id for status in clips],
            "label": [status.clip.label for status in clips],
            "group": [status.group for status in clips],
            "digest": digests,
        },
        folds=cache.plan.folds_of(digests).astype(np.int64),
        arrays={name: values[~absent] if absent.any() else values for name, values in arrays.items()},
        classes=cache.classes,
        left_out=int(absent.sum()),
    )


@contextmanager
def _aside(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes stand at `path` once all of them are written and synced, or not at all."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise refused(path, error) from error


def _write_npz(stream: BinaryIO, found: Exported) -> None:
    arrays = {name: np.array(texts, dtype=np.str_) for name, texts in found.texts.items()}
    if "logits" in found.arrays:
        arrays["classes"] = np.array(found.classes, dtype=np.str_)
    np.savez(stream, **arrays, fold=found.folds, **found.arrays)  # type: ignore[arg-type]


def _write_csv(stream: BinaryIO, found: Exported) -> None:
    embedding = [f"e{number}" for number in range(found.arrays["embedding"].shape[1])]
    logits = [f"{LOGIT}{label}" for label in found.classes] if "logits" in found.arrays else []
    names = ["id", "label", "group", "fold", "digest", *embedding, *logits]
    stream.write(_line(_quoted(name) if name.startswith(LOGIT) else name for name in names))
    step = max(1, _VALUES_AT_ONCE // (len(embedding) + len(logits)))
    for start in range(0, len(found.folds), step):
        piece = slice(start, start + step)
        quoted = (map(_quoted, found.texts[name][piece]) for name in ("id", "label", "group"))
        beside = zip(
            *quoted, map(str, found.folds[piece].tolist()), found.texts["digest"][piece], strict=True
        )
        numbers = _decimals(np.concatenate([values[piece] for values in found.arrays.values()], axis=1))
        stream.writelines(_line((*texts, *row)) for texts, row in zip(beside, numbers, strict=True))


def _quoted(text: str) -> str:
    """A cell of text, always in quotes, so that no name can end its cell or its line."""
    return '"' + text.replace('"', '""') + '"'


def _line(cells: "Iterator[str] | Sequence[str]") -> bytes:
    return (",".join(cells) + "\n").encode("utf-8", "surrogateescape")


def _decimals(values: np.ndarray) -> list[list[str]]:
    """Shortest decimals that give each float32 back through a float64, which is how text is read everywhere.

    The shortest decimal of a float32 does so nearly always; 7.038531e-26 is one that rounds twice, to the neighbour.
    """
    texts = values.astype("U24")
    for row, column in np.argwhere(texts.astype(np.float64).astype(np.float32) != values).tolist():
        texts[row, column] = repr(float(values[row, column]))
    found: list[list[str]] = texts.tolist()
    return found


def _write_parquet(stream: BinaryIO, found: Exported) -> None:
    from moodfuse.cache.transfer.parquet import write_parquet

    texts = found.texts
    first = {name: texts[name] for name in ("id", "label", "group")}
    columns: dict[str, np.ndarray | Sequence[str]] = {
        **first,
        "fold": found.folds,
        "digest": texts["digest"],
        **found.arrays,
    }
    write_parquet(stream, columns, classes=found.classes if "logits" in found.arrays else ())


WRITERS: dict[str, Callable[[BinaryIO, Exported], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
"""Writer of each suffix."""
