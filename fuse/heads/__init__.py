"""Fusion heads: scikit-learn classifiers by name, with settings as in ``lightgbm:leaves=4,rounds=50``.

Only making a head imports scikit-learn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from moodfuse.cache.errors import InputError, UnknownNameError
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
    `settings` are those that a user may give, with their types, of which the first is chosen otherwise.
    `takes_widths` whether it is given the number of columns of each source, to scale them alike.
    `version` counts the changes of the code that change the outcome of a fit: cached fits of another one are
    not used.
    """

    factory: str
    levels: tuple[Level, ...] = LEVELS
    fits: bool = True
    settings: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    takes_widths: bool = False
    version: int = 1


_PENALTY: Mapping[str, Callable[[str], Any]] = {"C": float}
_TREES: Mapping[str, Callable[[str], Any]] = {"rounds": int, "leaves": int, "learning_rate": float}
HEADS: dict[str, HeadSpec] = {
    # multinomial logistic regression on standardised columns
    "softmax": HeadSpec(
        "moodfuse.fuse.heads.linear:SoftmaxHead", settings=_PENALTY, takes_widths=True, version=4
    ),
    # one logistic regression per class, normalised
    "logistic": HeadSpec(
        "moodfuse.fuse.heads.linear:LogisticHead", settings=_PENALTY, takes_widths=True, version=4
    ),
    # gradient-boosted trees of one split, each over a sample of the columns
    "lightgbm": HeadSpec("moodfuse.fuse.heads.boosted:LightGBMHead", settings=_TREES, version=3),
    # average of the networks' probabilities
    "mean": HeadSpec("moodfuse.fuse.heads.linear:MeanHead", levels=("logits",), fits=False),
}
"""Heads by the name that `--head` takes."""


def parse_head(text: str) -> tuple[HeadSpec, dict[str, Any]]:
    """The head and the settings of a text such as ``"softmax"`` or ``"lightgbm:leaves=4,learning_rate=0.1"``.

    Raises
    ------
    UnknownNameError
        If the head or a setting is unknown.
    InputError
        If a value is not a positive number of the right type.
    """
    name, _, given = text.partition(":")
    if name not in HEADS:
        raise UnknownNameError("head", name, tuple(HEADS))
    spec, settings = HEADS[name], {}
    for part in given.split(",") if given else ():
        key, _, value = part.partition("=")
        if key not in spec.settings:
            raise UnknownNameError(f"setting of {name}", key, tuple(spec.settings) or ("none",))
        above = 1 if key == "leaves" else 0
        try:
            settings[key] = spec.settings[key](value)
        except ValueError:
            settings[key] = above
        if not above < settings[key] < float("inf"):
            expected = "2 or more" if above else "a positive number"
            raise InputError(f"--head {text}: {key} is {value!r}; expected {expected}")
    chosen = next(iter(spec.settings), None)
    if chosen in settings:
        settings["grid"] = (settings[chosen],)
    return spec, settings


def get_head_spec(text: str) -> HeadSpec:
    """The head of a name or a name with settings; errors are those of `parse_head`."""
    return parse_head(text)[0]


def make_head(
    name: str, *, random_state: int = 0, class_weight: ClassWeight | None = None, **settings: Any
) -> Any:
    """Make a fusion head: a scikit-learn classifier.

    Parameters
    ----------
    name : str
        One of `HEADS`, or one with settings, as `parse_head` takes.
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
    spec, given = parse_head(name)
    settings = given | settings
    module, _, factory = spec.factory.partition(":")
    if spec.fits:
        settings |= {"random_state": random_state, "class_weight": class_weight}
    return getattr(import_module(module), factory)(**settings)
