"""Fusion heads: scikit-learn classifiers by name. Only making a head imports scikit-learn."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from moodfuse.cache.errors import UnknownNameError
from moodfuse.fuse.inference import LEVELS, Level

ClassWeight = Literal["balanced"]


@dataclass(frozen=True)
class HeadSettings:
    """Settings that all heads of a run share, see `make_head`."""

    random_state: int = 0
    class_weight: ClassWeight | None = None


@dataclass(frozen=True)
class HeadSpec:
    """A fusion head: its class as ``module:name``, and the levels where it can be used.

    `fits` is whether it learns from the training rows, and chooses a setting on inner grouped folds;
    `takes_widths` whether it is given the number of columns of each source, to scale them alike.
    `version` counts the changes of the code that change the outcome of a fit: cached fits of another one are
    not used.
    """

    factory: str
    levels: tuple[Level, ...] = LEVELS
    fits: bool = True
    takes_widths: bool = False
    version: int = 1


HEADS: dict[str, HeadSpec] = {
    # multinomial logistic regression on standardised columns
    "softmax": HeadSpec("moodfuse.fuse.heads.linear:SoftmaxHead", takes_widths=True, version=4),
    # one logistic regression per class, normalised
    "logistic": HeadSpec("moodfuse.fuse.heads.linear:LogisticHead", takes_widths=True, version=4),
    # gradient-boosted trees of one split, each over a sample of the columns
    "lightgbm": HeadSpec("moodfuse.fuse.heads.boosted:LightGBMHead", version=3),
    # average of the networks' probabilities
    "mean": HeadSpec("moodfuse.fuse.heads.linear:MeanHead", levels=("logits",), fits=False),
}
"""Heads by the name that `--head` takes."""


def get_head_spec(name: str) -> HeadSpec:
    """Look a head up; an unknown name raises `UnknownNameError`."""
    if name not in HEADS:
        raise UnknownNameError("head", name, tuple(HEADS))
    return HEADS[name]


def make_head(
    name: str, *, random_state: int = 0, class_weight: ClassWeight | None = None, **settings: Any
) -> Any:
    """Make a fusion head: a scikit-learn classifier.

    Parameters
    ----------
    name : str
        One of `HEADS`; another name raises `UnknownNameError`.
    random_state : int
        Seed of everything random in it.
    class_weight : None or "balanced"
        With ``"balanced"`` all classes have the same total weight in fitting, however many rows they have.
        Probabilities are then corrected to the frequencies of the classes in the training rows.
    **settings
        Settings of the head: `C`, `grid`, `widths` and `tune` for softmax and logistic; `rounds`, `grid`,
        `tune`, `learning_rate` and `leaves` for lightgbm; `classes` for mean.

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
        settings |= {"random_state": random_state, "class_weight": class_weight}
    return getattr(import_module(module), factory)(**settings)
