"""Is one result better than another, on the same clips?

The difference of two accuracies is tested with the groups as units: under the hypothesis that the two are equally
good, a group's surplus of right answers is as likely to stand on the one side as on the other (sign-flip permutation;
Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses, ch. 3; with groups of one clip it is McNemar's
exact test). The surpluses are whole numbers, so the distribution over all 2**G flips is had exactly, by Fourier
transform, and no p-value depends on a seed. Ties count against a difference, which keeps the error rate at or below
the level. Many tests are corrected together (Holm 1979, Scand. J. Statist. 6:65).

A baseline that is the best of several results was chosen on these same clips, which favours the baseline: the test
finds a fusion better too seldom rather than too often.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moodfuse.evaluate.intervals import DIFFERENCE, interval
from moodfuse.evaluate.metrics import Floats, Labels
from moodfuse.evaluate.records import Baseline, PairedTest, Verdict
from moodfuse.evaluate.resampling import GroupDraws

LEVEL = 0.05
_RESOLUTION = 1e-12
Pair = tuple[str, str, Baseline]


def paired_tests(
    labels: Labels, table: Mapping[str, Floats], drawn: GroupDraws, *, pairs: Sequence[Pair]
) -> tuple[PairedTest, ...]:
    """Test differences of accuracy; all of them share the draws, and one correction.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    table : mapping of str to ndarray of float64, shape (N, C)
        Probabilities by the names of the results.
    drawn : GroupDraws
        Their groups are the units of the tests, the draws give the intervals.
    pairs : sequence of (result, against, kind of baseline)

    Returns
    -------
    tuple of PairedTest, in the order of `pairs`
    """
    if not pairs:
        return ()
    names = sorted({name for result, against, _ in pairs for name in (result, against)})
    right = np.stack([table[name].argmax(axis=1) == labels for name in names], axis=1).astype(np.float64)
    first, second = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))
    surplus = np.rint(drawn.group_sums(right)).astype(np.int64)
    accuracies, values = right.mean(axis=0), drawn.means(right)
    p_values = np.array(
        [sign_flip_p(surplus[:, a] - surplus[:, b]) for a, b in zip(first, second, strict=True)]
    )
    corrected = holm(p_values)
    tests = []
    for index, (result, against, baseline) in enumerate(pairs):
        a, b = first[index], second[index]
        difference = float(accuracies[a] - accuracies[b])
        tests.append(
            PairedTest(
                result=result,
                against=against,
                baseline=baseline,
                difference=difference,
                interval=interval(difference, values[:, a] - values[:, b], drawn.effective, DIFFERENCE),
                p_value=float(p_values[index]),
                p_holm=float(corrected[index]),
                verdict=_verdict(difference, float(corrected[index])),
            )
        )
    return tuple(tests)


def sign_flip_p(sums: NDArray[np.int64]) -> float:
    """Two-sided p-value of a sum against all flips of the signs of its parts.

    Parameters
    ----------
    sums : ndarray of int64, shape (G,)
        Right answers of one result minus those of the other, in each group.

    Returns
    -------
    float
        Share of the 2**G flips whose sum is as far from 0 or farther; 1 where all parts are 0. Not below 1e-12.
    """
    sizes, repeats = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    reach, observed = int(sizes @ repeats), abs(int(sums.sum()))
    # The sum's characteristic function is a product of cosines; its transform is the distribution at -reach ... reach.
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    wave = np.ones(len(angles))
    for size, times in zip(sizes, repeats, strict=True):
        wave *= np.cos(size * angles) ** int(times)
    chances = np.fft.fft(wave).real / len(angles)
    beyond = float(chances[observed : len(angles) - observed + 1].sum())
    return min(max(beyond, _RESOLUTION), 1.0)


def holm(p_values: Floats) -> Floats:
    """P-values corrected for their number (Holm 1979): each at least as large as any smaller one's.

    Parameters
    ----------
    p_values : ndarray of float64, shape (P,)

    Returns
    -------
    ndarray of float64, shape (P,), in [0, 1]
    """
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(raised, 1.0)
    return corrected


def _verdict(difference: float, p_value: float) -> Verdict:
    if p_value >= LEVEL:
        return "cannot tell"
    return "better" if difference > 0 else "worse"
