"""Fusion heads: scikit-learn classifiers by name. Only making a head imports scikit-learn."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from moodfuse.cache.errors import UnknownNameError
from moodfuse.fuse.inference import LEVELS, Level


@dataclass(frozen=True)
class HeadSpec:
    """A fusion head: its class as ``module:name``, and the levels where it can be used.

    `fits` is whether it learns from the training rows, and chooses a setting on inner grouped folds.
    `version` counts the changes of the code that change the outcome of a fit: cached fits of another one are
    not used.
    """

    factory: str
    levels: tuple[Level, ...] = LEVELS
    fits: bool = True
    version: int = 1


HEADS: dict[str, HeadSpec] = {
    # multinomial logistic regression on standardised columns
    "softmax": HeadSpec("moodfuse.fuse.heads.linear:SoftmaxHead", version=2),
    # one logistic regression per class, normalised
    "logistic": HeadSpec("moodfuse.fuse.heads.linear:LogisticHead", version=2),
    # gradient-boosted trees of one split, each over a sample of the columns
    "lightgbm": HeadSpec("moodfuse.fuse.heads.boosted:LightGBMHead", version=2),
    # average of the networks' probabilities
    "mean": HeadSpec("moodfuse.fuse.heads.linear:MeanHead", levels=("logits",), fits=False),
}
"""Heads by the name that `--head` takes."""


def get_head_spec(name: str) -> HeadSpec:
    """Look a head up; an unknown name raises `UnknownNameError`."""
    if name not in HEADS:
        raise UnknownNameError("head", name, tuple(HEADS))
    return HEADS[name]


def make_head(name: str, *, random_state: int = 0, **settings: Any) -> Any:
    """Make a fusion head: a scikit-learn classifier.

    Parameters
    ----------
    name : str
        One of `HEADS`; another name raises `UnknownNameError`.
    random_state : int
        Seed of everything random in it.
    **settings
        Settings of the head: `C`, `grid` and `tune` for softmax and logistic; `rounds`, `grid`, `tune`,
        `learning_rate` and `leaves` for lightgbm; `classes` for mean.

    Returns
    -------
    sklearn classifier
        ``fit(X, y, groups=None)``, ``predict_proba(X)``; rows of one group stay in one inner fold.

    Examples
    --------
    >>> head = make_head("softmax").fit(X, y, groups=songs)  # doctest: +SKIP
    """
    spec = get_head_spec(name)
    module, _, factory = spec.factory.partition(":")
    if spec.fits:
        settings["random_state"] = random_state
    return getattr(import_module(module), factory)(**settings)
