"""Export: what was imported from any format comes out bit for bit; no existing file is lost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bringing import (
    ANY_ID,
    FORMATS,
    IDS,
    LABELS,
    Given,
    bounded,
    bring,
    is_name,
    listing,
    write,
    write_labels,
)
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import InputError, MoodfuseError, UnknownNameError
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import WRITERS, export_features

pytestmark = pytest.mark.usefixtures("unsynced")

KINDS = ("f2", "f4", "f8", ">f4", ">f8", "i1", "i8", "u1", "u4", "u8")
NAMES = st.lists(ANY_ID.filter(is_name), min_size=len(LABELS), max_size=len(LABELS), unique=True)


def numbers(kind: str) -> st.SearchStrategy[float]:
    """Values that a dtype holds, and float32 after it."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        edge = float(np.finfo(np.float32 if dtype.itemsize > 2 else np.float16).max)
        return st.floats(-edge, edge, width=8 * dtype.itemsize)  # type: ignore[arg-type]
    return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


@st.composite
def features(draw: Callable[..., Any]) -> Given:
    """Rows of every clip in any order, of any dtype that can be a feature."""
    kind, width, ids = draw(st.sampled_from(KINDS)), draw(st.integers(1, 3)), draw(NAMES)
    wanted = len(ids) * (width + 2)
    values = np.array(draw(st.lists(numbers(kind), min_size=wanted, max_size=wanted)), dtype=kind)
    values = values.reshape(len(ids), -1)
    return Given(ids, values[:, :width], values[:, width:] if draw(st.booleans()) else None)


@settings(bounded, max_examples=25)
@given(found=features(), form=st.sampled_from(FORMATS), to=st.sampled_from(list(WRITERS)))
@example(
    found=Given([";", "\r", "a\r\nb", "0", "x", "y"], np.zeros((6, 1), np.float16)), form=".npz", to=".csv"
)
def test_round_trips_through_any_formats_keep_ids_and_bits(
    found: Given, form: str, to: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    found = Given(found.ids, found.embedding, None if form == ".npy" else found.logits)
    labels = write_labels(folder / "labels.csv", found.ids[::-1])
    assert bring(folder / "one", labels=labels, **write(folder, found, form)).written == len(found.ids)
    block = FeatureCache(folder / "one").block("mine", "*")
    assert list(block.ids) == sorted(found.ids)
    rows = [found.ids.index(name) for name in block.ids]
    for name, values in found.arrays.items():
        assert getattr(block, name).tobytes() == values.astype(np.float32)[rows].tobytes()
    assert found.logits is not None or block.logits is None

    out = folder / f"out{to}"
    export_features(FeatureCache(folder / "one"), "mine", None, out)
    before = listing(folder / "one")
    assert bring(folder / "one", file=out).written == 0 and listing(folder / "one") == before
    assert bring(folder / "two", file=out, labels=labels).written == len(found.ids)
    again = FeatureCache(folder / "two").block("mine", "*")
    assert list(again.ids) == list(block.ids) and again.embedding.tobytes() == block.embedding.tobytes()
    assert again.logits is None if block.logits is None else again.logits.tobytes() == block.logits.tobytes()


def test_every_float32_survives_a_csv(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 10_000, dtype=np.uint32)
    odd = [0x15AE43FD, 0x15AE43FE, 0x80000000, 0, 1, 0x007FFFFF, 0x7F7FFFFF]  # rounding, zeros, subnormals
    values = np.concatenate([bits, np.array(odd, dtype=np.uint32)]).view(np.float32)
    values = values[np.isfinite(values)]
    values = np.resize(values, (len(IDS), -(-len(values) // len(IDS))))
    labels = write_labels(tmp_path / "labels.csv", IDS)
    bring(tmp_path / "one", labels=labels, **write(tmp_path, Given(IDS, values), ".npz"))
    export_features(FeatureCache(tmp_path / "one"), "mine", None, tmp_path / "out.csv")
    bring(tmp_path / "two", file=tmp_path / "out.csv", labels=labels)
    assert FeatureCache(tmp_path / "two").block("mine", "*").embedding.tobytes() == values.tobytes()


def test_an_existing_file_is_replaced_only_by_force(known: FeatureCache, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists; name another --output, or replace it with --force"):
        export_features(known, "other", None, out)
    assert out.read_bytes() == b"mine"
    export_features(known, "other", None, out, force=True)
    found = np.load(out)
    assert sorted(found.files) == ["digest", "embedding", "fold", "group", "id", "label"]
    assert found["label"].tolist() == list(LABELS)
    assert found["digest"].tolist() == [status.digest for status in known.clips]
    with pytest.raises(InputError, match=r"unknown suffix '.h5'; expected one of .npz, .csv, .parquet"):
        export_features(known, "other", None, tmp_path / "out.h5")
    with pytest.raises(UnknownNameError, match="unknown source 'none'; known: other"):
        export_features(known, "none", None, tmp_path / "none.npz")
    (tmp_path / "file").touch()
    with pytest.raises(MoodfuseError, match="cannot be written"):
        export_features(known, "other", None, tmp_path / "file" / "out.npz")
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_link_stays_and_files_of_the_cache_are_refused(known: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "there" / "out.npz")
    for _ in range(2):
        export_features(known, "other", None, tmp_path / "link.npz", force=True)
        assert (tmp_path / "link.npz").is_symlink()
        assert len(np.load(tmp_path / "there" / "out.npz")["id"]) == 6
    before = listing(known.path)
    for place in ("clips.csv", "features/other/x/frozen/a.npz", "runs/run-1/out.csv"):
        with pytest.raises(InputError, match="is a path of the cache's own files; name an --output outside"):
            export_features(known, "other", None, known.path / place, force=True)
    assert listing(known.path) == before
    export_features(known, "other", None, known.path / "out.csv")


def test_clips_without_the_modality_of_the_source_are_left_out(
    small_cache: Callable[..., FeatureCache], tmp_path: Path
) -> None:
    cache = small_cache()
    statuses = list(cache.statuses)
    statuses[3] = replace(statuses[3], missing="picture")
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    recipe = Recipe("c3d", "c3d", 1, "random", "{}", "frozen", None, embedding_tuned=False)
    cache.write_recipe(recipe)
    cache.select([recipe])
    digests = [status.digest for status in cache.clips_with(recipe)]
    cache.write_block_part(recipe, None, digests, {"embedding": np.ones((17, 2), dtype=np.float32)})
    done = export_features(cache, "c3d", None, tmp_path / "out.npz")
    assert (done.left_out, done.clips) == (1, 17) and "003" not in np.load(tmp_path / "out.npz")["id"]
