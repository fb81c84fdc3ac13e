"""What a leak is worth: the results of an honest run beside those of a leaky one, clip by clip.

Both runs hold the same clips, so a difference is paired: its interval is a bootstrap over the honest run's groups, the
same draws for every row and for their mean, on the scale from -1 to 1 as in `moodfuse.evaluate.intervals`.
"""

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Run
from moodfuse.evaluate.intervals import DIFFERENCE, interval
from moodfuse.evaluate.metrics import Floats
from moodfuse.evaluate.records import Inflated, Inflation, Interval
from moodfuse.evaluate.resampling import DRAWS, GroupDraws, draw_groups


def inflation(honest: Run, leaky: Run, *, draws: int = DRAWS, seed: int = 0) -> Inflation:
    """Accuracy of each result that both runs hold, and what the leak adds to it.

    Parameters
    ----------
    honest, leaky : Run
        Of the same clips, in any order.
    draws, seed : int
        Of the bootstrap over the groups of `honest`.

    Returns
    -------
    Inflation
        Its mean is over fusions, over all rows where there is no fusion; rows in the order of `honest`.

    Raises
    ------
    InputError
        If the clips, their labels or the classes differ, or no result is in both.
    """
    order = _same_clips(honest, leaky)
    others = {result.name: result.probabilities[order] for result in leaky.results}
    shared = [result for result in honest.results if result.name in others]
    if not shared:
        raise InputError(
            f"runs {honest.name} and {leaky.name} share no result; run fuse --protocol leaky with the same --combine, "
            "--head and --level"
        )
    labels = np.array([honest.classes.index(label) for label in honest.labels])
    of_honest = np.stack([result.probabilities.argmax(axis=1) == labels for result in shared], axis=1)
    of_leaky = np.stack([others[result.name].argmax(axis=1) == labels for result in shared], axis=1)
    gains = of_leaky.astype(np.float64) - of_honest
    drawn = draw_groups(honest.groups, draws=draws, seed=seed)
    values = drawn.means(gains)
    rows = [
        Inflated(
            result=result.name,
            honest=float(of_honest[:, index].mean()),
            leaky=float(of_leaky[:, index].mean()),
            points=float(gains[:, index].mean()),
            points_ci95=_interval(gains[:, index], values[:, index], drawn),
        )
        for index, result in enumerate(shared)
    ]
    fused = [index for index, result in enumerate(shared) if len(result.sources) > 1] or list(
        range(len(shared))
    )
    mean = gains[:, fused].mean(axis=1)
    return Inflation(
        honest_run=honest.name,
        leaky_run=leaky.name,
        rows=tuple(rows),
        mean_points=float(mean.mean()),
        mean_points_ci95=_interval(mean, values[:, fused].mean(axis=1), drawn),
    )


def _interval(gains: Floats, values: Floats, draws: GroupDraws) -> Interval:
    return interval(float(gains.mean()), values, draws.effective, DIFFERENCE)


def can_be_compared(honest: Run, leaky: Run) -> bool:
    """Whether two runs differ in their protocol alone, as far as clips and networks go."""
    try:
        _same_clips(honest, leaky)
    except InputError:
        return False
    return True


def _same_clips(honest: Run, leaky: Run) -> list[int]:
    """Where each clip of the honest run stands in the leaky one."""
    again = f"run fuse --protocol leaky on the cache as it was for {honest.name}"
    if honest.classes != leaky.classes:
        raise InputError(
            f"run {honest.name} has the classes {', '.join(honest.classes)}, run {leaky.name} "
            f"{', '.join(leaky.classes)}; {again}"
        )
    place = {clip: index for index, clip in enumerate(leaky.ids)}
    if differing := sorted(set(honest.ids) ^ set(leaky.ids)):
        raise InputError(
            f"runs {honest.name} and {leaky.name} differ in {len(differing)} clips, such as {differing[0]!r}; {again}"
        )
    order = [place[clip] for clip in honest.ids]
    for clip, label, index in zip(honest.ids, honest.labels, order, strict=True):
        if leaky.labels[index] != label:
            raise InputError(
                f"clip {clip!r} is {label!r} in run {honest.name}, {leaky.labels[index]!r} in {leaky.name}; {again}"
            )
        if (
            honest.digests
            and leaky.digests
            and honest.digests[honest.ids.index(clip)] != leaky.digests[index]
        ):
            raise InputError(
                f"clip {clip!r} is another file in run {honest.name} than in {leaky.name}; {again}"
            )
    recipes = dict(leaky.recipes)
    for source, recipe in honest.recipes:
        if recipes.get(source, recipe) != recipe:
            raise InputError(
                f"{source} was made by another recipe in run {honest.name} than in {leaky.name}, so a difference would "
                f"not be the leak's alone; {again}"
            )
    return order
