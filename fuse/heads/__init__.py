"""Fusion heads: scikit-learn classifiers by name, with settings as in ``lightgbm:num_leaves=4``.

Only making a head imports scikit-learn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from typing import Any, Literal

import numpy as np

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.fuse.inference import LEVELS, Level

ClassWeight = Literal["balanced"]
Candidate = dict[str, float]
"""Values of settings that are tried together."""


@dataclass(frozen=True)
class HeadSettings:
    """Settings that all heads of a run share, see `make_head`."""

    random_state: int = 0
    class_weight: ClassWeight | None = None


@dataclass(frozen=True)
class Setting:
    """A setting of a head that a user may give, a number above `above`.

    Where it is not given, it is chosen on inner grouped folds: among the values of `grid`, or at its default
    where that is empty; under ``search=N`` among N values drawn log-uniformly between `low` and `high`.
    """

    kind: type[int] | type[float]
    low: float
    high: float
    grid: tuple[float, ...] = ()
    above: int = 0

    def draw(self, random: np.random.Generator) -> float:
        """A random value, rounded where it is an integer."""
        value = np.exp(random.uniform(np.log(self.low), np.log(self.high)))
        return self.kind(np.rint(value) if self.kind is int else value)


@dataclass(frozen=True)
class HeadSpec:
    """A fusion head: its class as ``module:name``, and the levels where it can be used.

    `fits` is whether it learns from the training rows; `settings` are those that a user may give.
    `takes_widths` whether it is given the number of columns of each source, to scale them alike.
    `version` counts the changes of the code that change the outcome of a fit: cached fits of another one are
    not used.
    """

    factory: str
    levels: tuple[Level, ...] = LEVELS
    fits: bool = True
    settings: Mapping[str, Setting] = field(default_factory=dict)
    takes_widths: bool = False
    version: int = 1


MAX_INTEGER, MAX_NUMBER = 100_000, 1e12
"""Largest values of settings; LightGBM takes at most 131,072 leaves."""
SEARCH = "search"
"""The setting of every head that is fitted: how many random settings are tried, in place of the grid."""
_PENALTY = {"C": Setting(float, 0.1, 1e4, grid=(1.0, 10.0, 100.0, 1000.0))}
_TREES = {
    "num_leaves": Setting(int, 2, 32, grid=(2, 4), above=1),
    "n_estimators": Setting(int, 5, 200, grid=(5, 10, 25, 50, 100)),
    "learning_rate": Setting(float, 0.02, 0.5),
    "min_child_samples": Setting(int, 2, 20),
    "reg_lambda": Setting(float, 0.1, 100.0),
}
HEADS: dict[str, HeadSpec] = {
    # multinomial logistic regression on standardised columns
    "softmax": HeadSpec(
        "moodfuse.fuse.heads.linear:SoftmaxHead", settings=_PENALTY, takes_widths=True, version=5
    ),
    # one logistic regression per class, normalised
    "logistic": HeadSpec(
        "moodfuse.fuse.heads.linear:LogisticHead", settings=_PENALTY, takes_widths=True, version=5
    ),
    # gradient-boosted trees, each over a sample of the columns
    "lightgbm": HeadSpec("moodfuse.fuse.heads.boosted:LightGBMHead", settings=_TREES, version=4),
    # average of the networks' probabilities
    "mean": HeadSpec("moodfuse.fuse.heads.linear:MeanHead", levels=("logits",), fits=False),
}
"""Heads by the name that `--head` takes."""


def parse_head(text: str) -> tuple[HeadSpec, dict[str, Any]]:
    """The head and the settings of a text such as ``"softmax"`` or ``"lightgbm:num_leaves=4,search=20"``.

    Raises
    ------
    UnknownNameError
        If the head or a setting is unknown.
    InputError
        If a value is not a number of the right type, or too small.
    """
    name, _, given = text.partition(":")
    if name not in HEADS:
        raise UnknownNameError("head", name, tuple(HEADS))
    spec, settings = HEADS[name], {}
    known = {**spec.settings, SEARCH: Setting(int, 1, 1)} if spec.fits else spec.settings
    for part in given.split(",") if given else ():
        key, _, value = part.partition("=")
        if key not in known:
            raise UnknownNameError(f"setting of {name}", key, tuple(known) or ("none",))
        if key in settings:
            raise InputError(f"head {text}: {key} is given twice; for several values, give a --head for each")
        kind, above = known[key].kind, known[key].above
        try:
            settings[key] = kind(value)
        except ValueError:
            settings[key] = above
        most = MAX_INTEGER if kind is int else MAX_NUMBER
        if not above < settings[key] <= most:
            number = "an integer" if kind is int else "a number"
            raise InputError(
                f"head {text}: {key} is {value!r}; expected {number} above {above}, at most {most:g}"
            )
    return spec, settings


def add_settings(text: str, settings: Mapping[str, object]) -> str:
    """The text of a head with further settings; those that it has already stay."""
    name, _, given = text.partition(":")
    old: dict[str, object] = dict(part.partition("=")[::2] for part in given.split(",") if part)
    every = old | dict(settings) | old
    return f"{name}:{','.join(f'{key}={value}' for key, value in every.items())}" if every else name


def get_head_spec(text: str) -> HeadSpec:
    """The head of a name or a name with settings; errors are those of `parse_head`."""
    return parse_head(text)[0]


def list_candidates(settings: Mapping[str, Setting], *, search: int, seed: int) -> tuple[Candidate, ...]:
    """The candidates for settings: every combination of their grids, or as many random ones as `search`.

    They are sorted by their values, so that the simplest come first.
    """
    if search:
        random = np.random.default_rng(seed)
        drawn = [{name: setting.draw(random) for name, setting in settings.items()} for _ in range(search)]
        return tuple(sorted(drawn, key=lambda candidate: tuple(candidate.values())))
    grids = {name: setting.grid for name, setting in settings.items() if setting.grid}
    return tuple(dict(zip(grids, values, strict=True)) for values in product(*grids.values()))


def make_head(
    name: str,
    *,
    random_state: int = 0,
    class_weight: ClassWeight | None = None,
    tune: bool = True,
    **settings: Any,
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
    tune : bool
        Whether settings that are not given are chosen on inner folds; set it to `False` where training rows
        are in sample.
    **settings
        Settings of the head: those of `HEADS`, which are then not chosen; `widths` for softmax and logistic;
        `classes` for mean.

    Returns
    -------
    sklearn classifier
        ``fit(X, y, groups=None)``, ``predict_proba(X)``; rows of one group stay in one inner fold.

    Examples
    --------
    >>> head = make_head("softmax").fit(X, y, groups=songs)  # doctest: +SKIP
    """
    spec, given = parse_head(name)
    search = given.pop(SEARCH, 0)
    settings = given | settings
    module, _, factory = spec.factory.partition(":")
    if spec.fits:
        settings |= {"random_state": random_state, "class_weight": class_weight}
        if tune:
            free = {key: setting for key, setting in spec.settings.items() if key not in settings}
            settings["grid"] = list_candidates(free, search=search, seed=random_state)
    return getattr(import_module(module), factory)(**settings)
