"""Export: imported features come out bit for bit in every format; no existing file is lost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from bringing import IDS, LABELS, Given, bring, listing, refuse, write, write_labels
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import InputError, MoodfuseError, UnknownNameError
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import WRITERS, export_features

pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_exported_file_is_imported_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    ids = (";", "a\nb", '"', " é 漢", "a\rb", "x" * 300)
    bits = np.random.default_rng(0).integers(0, 2**32, (6, 500), dtype=np.uint32)
    bits[0, :5] = 0x15AE43FD, 0x80000000, 1, 0x007FFFFF, 0x7F7FFFFF  # rounding, zero, subnormals, largest
    values = np.nan_to_num(bits.view(np.float32))
    labels = write_labels(tmp_path / "labels.csv", ids[::-1])
    bring(tmp_path / "one", labels=labels, **write(tmp_path, Given(ids, values, values[:, :2]), ".npz"))
    block = FeatureCache(tmp_path / "one").block("mine", "*")
    rows = [ids.index(name) for name in block.ids]
    assert block.embedding.tobytes() == values[rows].tobytes()

    out = tmp_path / f"out{suffix}"
    export_features(FeatureCache(tmp_path / "one"), "mine", None, out)
    before = listing(tmp_path / "one")
    assert bring(tmp_path / "one", file=out).written == 0 and listing(tmp_path / "one") == before
    assert bring(tmp_path / "two", file=out, labels=labels).written == len(ids)
    again = FeatureCache(tmp_path / "two").block("mine", "*")
    assert list(again.ids) == list(block.ids) and again.embedding.tobytes() == block.embedding.tobytes()
    assert block.logits is not None and again.logits is not None
    assert again.logits.tobytes() == block.logits.tobytes()


def test_ids_that_are_not_utf8_are_exported_to_npz(tmp_path: Path) -> None:
    ids = ("\udcff", *IDS[1:])
    labels = write_labels(tmp_path / "labels.csv", ids)
    bring(tmp_path / "one", labels=labels, **write(tmp_path, Given(ids, np.ones((6, 1))), ".npz"))
    for suffix in (".npz", ".csv"):
        export_features(FeatureCache(tmp_path / "one"), "mine", None, tmp_path / f"out{suffix}")
        assert bring(tmp_path / "one", file=tmp_path / f"out{suffix}").written == 0
    with pytest.raises(InputError, match="is not UTF-8, as Parquet needs; export to .npz"):
        export_features(FeatureCache(tmp_path / "one"), "mine", None, tmp_path / "out.parquet")


def test_parquet_keeps_the_classes_of_its_lists_of_logits(known: FeatureCache, tmp_path: Path) -> None:
    given = Given(IDS, np.ones((6, 2)), np.array([[2.0, -1.0]] * 6))
    bring(known.path, source="zs", **write(tmp_path, given, ".npz"))
    out = tmp_path / "out.parquet"
    export_features(FeatureCache(known.path), "zs", None, out)
    table = pyarrow.parquet.read_table(out)
    for metadata, cause in ((b'["a"]', "classes do not match"), (b"[", "cannot be read")):
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": metadata}), out)
        refuse(tmp_path, cause, source="two", file=out)
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": b'["b","a"]'}), out)
    bring(known.path, source="two", file=out)
    logits = FeatureCache(known.path).block("two", "*").logits
    assert logits is not None and logits.tolist() == [[-1.0, 2.0]] * 6


def test_an_existing_file_is_replaced_only_by_force(known: FeatureCache, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists; name another --output, or replace it with --force"):
        export_features(known, "other", None, out)
    assert out.read_bytes() == b"mine"
    export_features(known, "other", None, out, force=True)
    arrays = np.load(out)
    assert sorted(arrays.files) == ["digest", "embedding", "fold", "group", "id", "label"]
    assert arrays["label"].tolist() == list(LABELS)
    assert arrays["digest"].tolist() == [status.digest for status in known.clips]
    with pytest.raises(InputError, match=r"unknown suffix '.h5'; expected one of .npz, .csv, .parquet"):
        export_features(known, "other", None, tmp_path / "out.h5")
    with pytest.raises(UnknownNameError, match="unknown source 'none'; known: other"):
        export_features(known, "none", None, tmp_path / "none.npz")
    (tmp_path / "file").touch()
    with pytest.raises(MoodfuseError, match="cannot be written"):
        export_features(known, "other", None, tmp_path / "file" / "out.npz")


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
