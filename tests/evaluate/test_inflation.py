"""What a leak adds is counted on the same clips, whatever their order, and on nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.inflation import inflation


def make_run(
    name: str, skill: float, *, ways: tuple[str, ...] = ("network", "softmax", "mean"), seed: int = 0
) -> Run:
    """Thirty clips in fifteen groups; the better the skill, the more are right."""
    random = np.random.default_rng(seed)
    labels = np.arange(30) % 3
    results = []
    for way in ways:
        said = np.where(random.random(30) < skill, labels, (labels + 1) % 3)
        sources = ("a",) if way == "network" else ("a", "b")
        results.append(Result(sources, way, "logits", np.eye(3)[said]))
    return Run(
        name=name,
        protocol="crossfit",
        classes=("x", "y", "z"),
        ids=tuple(f"clip-{index}" for index in range(30)),
        labels=tuple("xyz"[label] for label in labels),
        groups=tuple(str(index // 2) for index in range(30)),
        folds=tuple(index % 3 for index in range(30)),
        fold_count=3,
        seed=0,
        recipes=(),
        results=tuple(results),
    )


def turned(run: Run, order: np.ndarray) -> Run:
    """The same run with its clips in another order, and a group for each."""
    results = tuple(replace(result, probabilities=result.probabilities[order]) for result in run.results)
    ids, labels = (tuple(np.array(names)[order].tolist()) for names in (run.ids, run.labels))
    return replace(run, ids=ids, labels=labels, groups=ids, results=results, protocol="leaky")


def test_points_are_leaky_minus_honest() -> None:
    """Rows that both hold, in the honest run's order; the mean is over fusions; the clips' order does not matter."""
    honest, leaky = make_run("honest", 0.5), make_run("leak", 0.95, seed=1)
    found = inflation(honest, leaky, draws=200)
    assert (found.honest_run, found.leaky_run) == ("honest", "leak")
    assert [row.result for row in found.rows] == [result.name for result in honest.results]
    for row in found.rows:
        assert row.points == pytest.approx(row.leaky - row.honest) and row.points > 0
        assert row.points_ci95.low < row.points < row.points_ci95.high
    assert found.mean_points == pytest.approx(np.mean([row.points for row in found.rows[1:]]))
    assert found.mean_points_ci95.low < found.mean_points < found.mean_points_ci95.high
    assert inflation(honest, turned(leaky, np.random.default_rng(0).permutation(30)), draws=200) == found


def test_heads_on_one_source_do_not_enter_the_mean() -> None:
    """The mean over fusions is over results of two sources and more."""
    honest, leaky = make_run("honest", 0.5), make_run("leak", 0.95, seed=1)
    single = [replace(run.results[1], sources=("a",)) for run in (honest, leaky)]
    more = [
        replace(run, results=(*run.results, row)) for run, row in zip((honest, leaky), single, strict=True)
    ]
    found = inflation(*more, draws=50)
    assert len(found.rows) == 4 and found.mean_points == inflation(honest, leaky, draws=50).mean_points


def test_only_shared_rows_are_compared() -> None:
    """A result of one run alone is left out; without fusions the mean is over networks."""
    found = inflation(make_run("a", 0.5), make_run("b", 0.9, ways=("network",)), draws=50)
    assert [row.result for row in found.rows] == ["a network logits"]
    assert found.mean_points == found.rows[0].points


def test_other_clips_classes_or_results_are_refused() -> None:
    """Each with what differs and what to do."""
    honest, leaky = make_run("honest", 0.5), make_run("leak", 0.9)
    with pytest.raises(
        InputError, match="honest has the classes x, y, z, run leak x, y, w; run fuse --protocol leaky"
    ):
        inflation(honest, replace(leaky, classes=("x", "y", "w")))
    with pytest.raises(InputError, match="honest and leak differ in 2 clips, such as 'clip-0'"):
        inflation(honest, replace(leaky, ids=("other", *leaky.ids[1:])))
    with pytest.raises(InputError, match="clip 'clip-0' is 'x' in run honest, 'y' in leak"):
        inflation(honest, replace(leaky, labels=("y", *leaky.labels[1:])))
    with pytest.raises(InputError, match="share no result"):
        inflation(make_run("honest", 0.5, ways=("softmax",)), make_run("leak", 0.9, ways=("network",)))
