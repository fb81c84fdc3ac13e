"""The fusion heads, as one table. Importing it loads no scikit-learn; making a head does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moodfuse.cache.errors import UnknownNameError
from moodfuse.fuse.features import LEVELS, Level


@dataclass(frozen=True)
class HeadSpec:
    """What a head is.

    Attributes
    ----------
    name : str
    summary : str
        One line for help and reports.
    factory : callable
        Makes the scikit-learn classifier from `random_state` and the head's own settings.
    levels : tuple of str
        Where it can be used.
    fits : bool
        Whether it learns anything from the training rows.
    tunes : bool
        Whether it chooses a setting on inner grouped folds.
    kin : str
        Heads of one kin share work where one process fits them on the same rows.
    version : int
        Counts the changes of the code that change what a fit comes to: kept fits of another version are not found.
    """

    name: str
    summary: str
    factory: Callable[..., Any]
    levels: tuple[Level, ...] = LEVELS
    fits: bool = True
    tunes: bool = False
    kin: str = "linear"
    version: int = 1


def _softmax(random_state: int, **settings: Any) -> Any:
    from moodfuse.fuse.heads.linear import SoftmaxHead

    return SoftmaxHead(random_state=random_state, **settings)


def _logistic(random_state: int, **settings: Any) -> Any:
    from moodfuse.fuse.heads.linear import LogisticHead

    return LogisticHead(random_state=random_state, **settings)


def _lightgbm(random_state: int, **settings: Any) -> Any:
    from moodfuse.fuse.heads.boosted import LightGBMHead

    return LightGBMHead(random_state=random_state, **settings)


def _mean(random_state: int, **settings: Any) -> Any:
    from moodfuse.fuse.heads.mean import MeanHead

    return MeanHead(**settings)


HEADS: dict[str, HeadSpec] = {
    spec.name: spec
    for spec in (
        HeadSpec(
            "softmax",
            "multinomial logistic regression on standardised columns",
            _softmax,
            tunes=True,
            version=2,
        ),
        HeadSpec("logistic", "one logistic regression a class, normalised", _logistic, tunes=True, version=2),
        HeadSpec(
            "lightgbm",
            "gradient-boosted trees of one split, a share of the columns a tree",
            _lightgbm,
            tunes=True,
            kin="trees",
            version=2,
        ),
        HeadSpec("mean", "average of the networks' probabilities", _mean, levels=("logits",), fits=False),
    )
}
"""Head name -> what it is. Names are the ones of `--head`."""


def head_spec(name: str) -> HeadSpec:
    """Look a head up.

    Raises
    ------
    UnknownNameError
        Listing the known heads.
    """
    if name not in HEADS:
        raise UnknownNameError("head", name, tuple(HEADS))
    return HEADS[name]


def make_head(name: str, *, random_state: int = 0, **settings: Any) -> Any:
    """Make a fusion head: a scikit-learn classifier.

    Parameters
    ----------
    name : str
        One of `HEADS`.
    random_state : int
        Seed of everything random in it.
    **settings
        The head's own: `C`, `grid` and `tune` for softmax and logistic; `rounds`, `grid`, `tune`, `learning_rate` and
        others for lightgbm; `classes` for mean.

    Returns
    -------
    sklearn classifier
        ``fit(X, y, groups=None)``, ``predict_proba(X)``; `groups` are rows that inner folds keep together.

    Raises
    ------
    UnknownNameError

    Examples
    --------
    >>> head = make_head("softmax").fit(X, y, groups=songs)  # doctest: +SKIP
    """
    return head_spec(name).factory(random_state, **settings)
