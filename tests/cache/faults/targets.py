"""A cache with a file of every kind, how each is read, and whether a reader notices what was done to it."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from faults.mutants import MUTATIONS
from faults.samples import AUDIT, TUNED, Sample, forget, right_rows
from moodfuse.cache.audits import read_audit, write_audit
from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import CacheError, MissingBlockError, MoodfuseError
from moodfuse.cache.media import Media, MediaStore, Rendition
from moodfuse.cache.records import Outcome
from moodfuse.cache.runs import Result, Run, read_run, write_run
from moodfuse.cache.storage.files import BAD_SUFFIX, write_aside
from moodfuse.cache.storage.parts import read_part, verify_part
from moodfuse.cache.storage.weight_files import METADATA_KEY, SEAL, check_sealed, seal_of
from moodfuse.cache.store import FeatureCache, check_trained


@dataclass(frozen=True)
class Target:
    """A file of a cache, and what a reader gets of it."""

    kind: str
    path: Path
    read: Callable[[], Any]


@dataclass(frozen=True)
class Mutant:
    """What came of one mutant: `verdict` is ``detected``, ``identical``, or what went wrong."""

    kind: str
    mutation: str
    verdict: str
    seconds: float


def make_targets(root: Path) -> list[Target]:
    """Make a cache with a file of every kind in it."""
    sample = Sample(parts=3, clips_per_part=4)
    store = FeatureCache(sample.fill(root), create=True)
    clips = [status.digest for status in store.clips]
    roles = store.roles(TUNED, 0) or ()
    store.write_recipe(TUNED)
    store.write_roles(TUNED, roles)
    store.write_block_part(TUNED, roles, clips, right_rows(clips, TUNED.source))
    _write_network(store.network_path(TUNED, roles))
    store.select([TUNED], command="moodfuse extract clips --source net")
    store.write_outcome(Outcome(clips[0], ok=True, duration_s=29.5, decoder="made"))
    media = MediaStore(root / "media", Rendition("picture", "made"))
    media.write(clips[0], _made_media())
    for name in ("made-1", "made-2"):
        write_run(store, _made_run(store, name))
    write_audit(store, AUDIT)

    def target(kind: str, pattern: str, read: Callable[[Path], Any]) -> Target:
        path = min(path for path in root.glob(pattern) if not path.name.startswith("."))
        return Target(kind, path, lambda: read(path))

    return [
        target("feature part", "features/still/*/frozen/*.h5", read_part),
        target("block", "features/still/*/frozen/*.h5", lambda path: FeatureCache(root).block("still", "*")),
        target("tuned block", "features/net/*/*/*.h5", lambda path: FeatureCache(root).block("net", 0)),
        target("plan", "plans/*.h5", lambda path: FeatureCache(root).all_plans),
        target("table", "tables/*.h5", lambda path: FeatureCache(root).statuses),
        target("media part", "media/*/*/*.h5", lambda path: media.read(clips[0])),
        target("predictions", "runs/*/*.h5", lambda path: read_run(FeatureCache(root), "made-1")),
        target("network", "networks/*/*/*.safetensors", _read_network),
        target("run record", "runs/*/run.json", lambda path: read_run(FeatureCache(root), "made-1")),
        target("recipe", "features/still/*/recipe.json", lambda path: FeatureCache(root).recipe("still")),
        target("roles", "features/net/*/*/trained.json", check_trained),
        target(
            "selection",
            "sources/*.json",
            lambda path: (FeatureCache(root).selection, FeatureCache(root).commands),
        ),
        target("outcome", "clips/*/*.json", lambda path: _there(FeatureCache(root).outcomes(clips[:1]))),
        target("audit", "audits/*.json", lambda path: _there(read_audit(FeatureCache(root)))),
        target("marker", "*.json", lambda path: FeatureCache(root).path),
    ]


def _there(value: Any) -> Any:
    """What was read, if anything; damaged records are set aside and count as missing."""
    if not value:
        raise MissingBlockError("set aside")
    return value


def _read_network(path: Path) -> Any:
    check_sealed(path)
    return load(path.read_bytes())


def _write_network(path: Path) -> None:
    random = np.random.default_rng(1)
    tensors = {
        "conv.weight": random.standard_normal((8, 3, 3, 3), np.float32),
        "conv.bias": np.zeros(8, np.float32),
    }
    facts = {"classes": ["excited", "sad"], "epoch": 3, "early_stopping": False}
    seal = seal_of(save(tensors, metadata={METADATA_KEY: canonical_json(facts)}))
    write_aside(path, save(tensors, metadata={METADATA_KEY: canonical_json({**facts, SEAL: seal})}))


def _made_media() -> Media:
    random = np.random.default_rng(2)
    frames = random.integers(0, 256, (32, 12, 16, 3), dtype=np.uint8)
    return Media(frames, np.arange(32.0), random.standard_normal(8000).astype(np.float32), 8000)


def _made_run(store: FeatureCache, name: str) -> Run:
    chances = np.random.default_rng(3).dirichlet((1.0, 1.0), len(store.clips))
    statuses = list(store.clips)
    return Run(
        name=name,
        protocol="crossfit",
        classes=store.classes,
        ids=tuple(status.clip.id for status in statuses),
        labels=tuple(status.clip.label for status in statuses),
        groups=tuple(status.group for status in statuses),
        folds=tuple(store.plan.assignment[status.digest] for status in statuses),
        fold_count=store.plan.folds,
        seed=0,
        recipes=(("still", store.recipe("still").digest16),),
        results=(
            Result(("still",), "softmax", "logits", chances, unscaled=chances, temperatures=(1.0, 1.5)),
        ),
        digests=tuple(status.digest for status in statuses),
    )


def fingerprint(value: Any) -> str:
    """A text that is equal for equal values, arrays down to the bits."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return str(sorted((str(key), fingerprint(item)) for key, item in value.items()))
    if isinstance(value, (set, frozenset)):
        return str(sorted(value))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return str([fingerprint(item) for item in value])
    if is_dataclass(value):
        return str([(item.name, fingerprint(getattr(value, item.name))) for item in fields(value)])
    return repr(value)


def harm(targets: Sequence[Target], count: int, *, seed: int = 0) -> Iterator[Mutant]:
    """Read so many mutants, each kind of file with each kind of harm in turn; the files are mended after each."""
    combinations = [(target, name) for name in MUTATIONS for target in targets]
    good = {target.kind: fingerprint(target.read()) for target in targets}
    logging.disable(logging.WARNING)
    try:
        for number in range(count):
            target, name = combinations[number % len(combinations)]
            yield _read_mutant(target, name, good[target.kind], np.random.default_rng([seed, number]))
    finally:
        logging.disable(logging.NOTSET)


def _read_mutant(target: Target, name: str, good: str, random: np.random.Generator) -> Mutant:
    data = target.path.read_bytes()
    harmed = data
    while harmed == data:
        harmed = MUTATIONS[name](data, random)
    target.path.write_bytes(harmed)
    forget()
    start = time.perf_counter()
    try:
        verdict = "read as another"
        if fingerprint(target.read()) == good:
            verdict = "identical"
            if target.path.suffix == ".h5":
                verify_part(target.path)
    except MoodfuseError as error:
        wants = CacheError if target.path.suffix != ".json" else MoodfuseError
        verdict = "detected" if isinstance(error, wants) else f"refused as {type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - what must not happen is counted
        verdict = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    target.path.write_bytes(data)
    target.path.with_name(target.path.name + BAD_SUFFIX).unlink(missing_ok=True)
    return Mutant(target.kind, name, verdict, seconds)
