"""Small caches made of records alone: no media, no networks."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from bringing import IDS, Given, bring, write, write_labels
from moodfuse.cache.audits import Audit, ClipMarks, Finding, MarkStore, write_audit
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import canonical_json, clip_digest, digest, training_digest16
from moodfuse.cache.files import CHECKSUM_KEY, METADATA_KEY, compute_checksum
from moodfuse.cache.fits import CachedFit, FitCache
from moodfuse.cache.folds import assign_folds, clip_groups
from moodfuse.cache.media import Media, MediaStore, Rendition
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart
from moodfuse.cache.records import Clip, ClipStatus, HoldoutLike, Outcome, Plan
from moodfuse.cache.runs import Result, Run, write_run
from moodfuse.cache.storage.files import write_atomic
from moodfuse.cache.store import FeatureCache


def make_statuses(labels: Sequence[str], groups: Sequence[str] | None = None) -> list[ClipStatus]:
    """One readable status per label; every clip its own group unless groups are given."""
    statuses = []
    for number, label in enumerate(labels):
        clip = Clip(id=f"{number:03d}", path=f"/data/{number:03d}.mp4", label=label)
        file = digest(f"file {number}")
        group = clip.id if groups is None else groups[number]
        statuses.append(ClipStatus(clip, clip_digest(file, 0.0, None), file, group, ok=True, duration_s=30.0))
    return statuses


def make_plan(statuses: Sequence[ClipStatus], *, folds: int = 3, seed: int = 0) -> Plan:
    """A plan of all statuses."""
    assignment = assign_folds(clip_groups(statuses), folds=folds, seed=seed, placed={})
    return Plan(folds, seed, "test", assignment, (table_name(statuses),))


@pytest.fixture
def small_cache(tmp_path: Path) -> Callable[..., FeatureCache]:
    """A cache with a plan over labelled clips."""

    def make(labels: Sequence[str] = ("a", "b") * 9, **options: int) -> FeatureCache:
        cache = FeatureCache(tmp_path / "work", create=True)
        statuses = make_statuses(labels)
        cache.write_plan(make_plan(statuses, **options), statuses)
        return cache

    return make


NET = Recipe("net@a", "net", 1, "random", "{}", "head", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


def fill_blocks(
    cache: FeatureCache, recipe: Recipe, holdouts: Iterable[HoldoutLike], plan: Plan | None = None
) -> None:
    """Write blocks of a recipe, two parts for a frozen network; values depend on the seed and the network."""
    cache.write_recipe(recipe)
    digests = [status.digest for status in cache.clips]
    for holdout in holdouts:
        training_clips = cache.training_clips(recipe, holdout, plan=plan)
        if training_clips is not None:
            cache.write_training_clips(recipe, training_clips)
            write_network(cache.network_path(recipe, training_clips))
        base = 1000 * recipe.seed + (int(training_digest16(training_clips)[:4], 16) if training_clips else 0)
        rows = (np.arange(len(digests))[:, None] + np.arange(4) / 8 + base).astype(np.float32)
        for part in (slice(None),) if training_clips else (slice(0, 7), slice(7, None)):
            arrays = {"embedding": rows[part], "logits": rows[part, : len(cache.classes)]}
            cache.write_block_part(recipe, training_clips, digests[part], arrays)


def write_network(path: Path) -> None:
    """A file of weights with its checksum."""
    weights = {"weight": np.arange(6, dtype=np.float32)}
    seal = compute_checksum(save(weights, metadata={METADATA_KEY: canonical_json({"epoch": 3})}))
    write_atomic(
        path, save(weights, metadata={METADATA_KEY: canonical_json({"epoch": 3, CHECKSUM_KEY: seal})})
    )


@pytest.fixture(scope="session")
def fill() -> Callable[..., None]:
    """`fill_blocks`, for tests that fill a cache themselves."""
    return fill_blocks


@pytest.fixture
def whole_cache(whole_template: Path, tmp_path: Path) -> FeatureCache:
    """A cache with every kind of file, which a test may change."""
    shutil.copytree(whole_template, tmp_path / "work")
    return FeatureCache(tmp_path / "work")


@pytest.fixture(scope="session")
def whole_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan, heads of two folds, a frozen source, media, weights, an audit, a run."""
    return make_whole(tmp_path_factory.mktemp("whole") / "work").path


@pytest.fixture
def tuned_cache(tuned_template: Path, tmp_path: Path) -> FeatureCache:
    """A whole cache with further networks, which a test may change."""
    shutil.copytree(tuned_template, tmp_path / "work")
    return FeatureCache(tmp_path / "work")


@pytest.fixture(scope="session")
def tuned_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cache with networks of a pair, of all clips and of a second plan, and the frozen one."""
    cache = make_whole(tmp_path_factory.mktemp("tuned") / "work")
    statuses = list(cache.statuses)
    again = assign_folds(clip_groups(statuses), folds=3, seed=1, placed={})
    cache.write_plan(Plan(3, 1, "test", again, cache.plan.records, repeat=1), statuses)
    fill_blocks(cache, frozen_counterpart(NET), ["*"])
    fill_blocks(cache, NET, [{0, 1}, ()])
    fill_blocks(cache, NET, [0], cache.repeat_plans[0])
    return cache.path


def make_whole(folder: Path) -> FeatureCache:
    """A cache with every kind of file."""
    cache = FeatureCache(folder, create=True)
    statuses = make_statuses(("a", "b") * 9)
    cache.write_plan(make_plan(statuses), statuses)
    fill_blocks(cache, STILL, ["*"])
    fill_blocks(cache, NET, [0, 1])
    write_network(cache.network_path(NET, cache.training_clips(NET, 0) or ()).with_suffix(".checkpoint"))
    cache.select([STILL, NET], command="moodfuse extract clips --cache work", reading={"missing": "impute"})
    first = statuses[0].digest
    cache.write_outcome(Outcome(first, ok=True, duration_s=30.0, decoder="test"))
    sound = Media(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), np.zeros(480_000, np.float32), 16)
    MediaStore(cache.path / "media", Rendition("sound", "test")).write(first, sound)
    peaks = np.arange(3, dtype=np.uint16)
    MarkStore(cache, "test").write(first, ClipMarks(peaks, peaks, np.zeros(1, np.uint64), np.zeros(1)))
    write_audit(cache, Audit("test", (Finding("sound", "000", "001", 0.9, 0.0, 1.0, 3.0, grouped=False),)))
    fits = FitCache(cache.path, cache.clips)
    fits.keep(digest("fit"), CachedFit(np.full((6, 2), 0.5), 1.5, chosen=True, settings={"C": 1.0}))
    fits.flush()
    write_run(cache, make_run(cache, "run-1"))
    (cache.path / "runs" / "run-1" / "report").mkdir()
    (cache.path / "runs" / "run-1" / "report" / "report.html").write_text("<html></html>")
    return cache


def make_run(cache: FeatureCache, name: str) -> Run:
    """A run of the current sources, whose probabilities are all equal."""
    clips = cache.clips
    return Run(
        name=name,
        protocol="crossfit",
        classes=cache.classes,
        ids=tuple(status.clip.id for status in clips),
        labels=tuple(status.clip.label for status in clips),
        groups=tuple(status.group for status in clips),
        folds=tuple(cache.plan.assignment[status.digest] for status in clips),
        fold_count=3,
        seed=0,
        recipes=tuple(sorted(cache.selection.items())),
        results=(Result(("still",), "mean", "logits", np.full((len(clips), 2), 0.5)),),
    )


@pytest.fixture(scope="module")
def unsynced() -> Iterator[None]:
    """No waiting for the disk, where many small caches are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture
def known(tmp_path: Path) -> FeatureCache:
    """A cache of six clips with an imported source `other`."""
    labels = write_labels(tmp_path / "labels.csv", IDS)
    features = Given(IDS, np.arange(12.0).reshape(6, 2))
    bring(tmp_path / "known", source="other", labels=labels, **write(tmp_path, features, ".npz"))
    return FeatureCache(tmp_path / "known")
