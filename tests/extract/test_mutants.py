"""Harmed media files: each gives features or a refusal, in time, in bounds, and costs no other."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hostile.mutants import (
    HARMS,
    KINDS,
    LIMITS,
    SLACK_MB,
    SLACK_S,
    MutantResult,
    make_seeds,
    mutant,
    run_mutants,
)
from hostile.seeds import SEEDS, make_seed
from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.limits import REASONS

COUNT = 224  # each seed harmed four times in each way; 10 000: benchmarks/mutants.py


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[MutantResult]:
    """What came of the first mutants."""
    return list(run_mutants(tmp_path_factory.mktemp("mutants"), COUNT))


@pytest.mark.parametrize("name", list(SEEDS))
def test_each_seed_is_read_whole(name: str, tmp_path: Path) -> None:
    """Unharmed, each of the eight gives all that it holds."""
    clip = read_clip(make_seed(tmp_path, name))
    assert clip.frames.shape == (32, 48, 64, 3) and not clip.partial and not clip.damaged
    assert clip.waveform_samples >= 15_200 and clip.waveform[: clip.waveform_samples].std() > 0.02


def test_a_mutant_follows_from_its_number(tmp_path: Path) -> None:
    """The same number gives the same bytes; every seed is harmed in every way, and is another then."""
    seeds, again = make_seeds(tmp_path / "one"), make_seeds(tmp_path / "other")
    assert seeds == again
    made = [mutant(seeds, number) for number in range(len(SEEDS) * len(KINDS))]
    assert made == [mutant(again, number) for number in range(len(made))]
    assert {(name, kind) for name, kind, _ in made} == {
        (name, kind) for name in SEEDS for kind in (*HARMS, "size")
    }
    assert np.mean([seeds[name] != data for name, _, data in made]) > 0.9


def test_every_mutant_gives_features_or_a_reason(results: list[MutantResult]) -> None:
    """None is lost, none gives what no clip may be, and some of them are read and some refused."""
    assert [one.request.number for one in results] == list(range(COUNT))
    assert [(one.request.number, one.faults) for one in results if one.faults] == []
    found = Counter(one.outcome for one in results)
    assert found.keys() <= {"features", "partial", *REASONS}
    assert (
        found["features"] > COUNT / 5 and found["truncated"] and found["decode_failed"] and found["partial"]
    )


def test_no_mutant_outlives_its_deadline_or_its_memory(results: list[MutantResult]) -> None:
    """The slowest ends in time, and no worker has had more memory than it may."""
    assert max(one.seconds for one in results) <= LIMITS.deadline_s + SLACK_S
    assert 0 < max(one.beyond_idle_mb for one in results) <= LIMITS.memory_mb + SLACK_MB
    assert max(one.resident_mb for one in results) <= LIMITS.memory_mb
