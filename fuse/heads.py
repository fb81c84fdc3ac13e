"""Fusion heads as a table. Importing it loads neither scikit-learn nor LightGBM."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cache.errors import UnknownNameError


@dataclass(frozen=True)
class HeadSpec:
    """One head: where its class is, at which levels it works, whether it fits anything."""

    factory: str
    levels: tuple[str, ...]
    fits: bool
    summary: str


LEVELS = ("logits", "embedding")
HEADS: dict[str, HeadSpec] = {
    "softmax": HeadSpec("fuse.heads_linear:SoftmaxHead", LEVELS, True, "standardised multinomial logistic regression"),
    "logistic": HeadSpec("fuse.heads_linear:LogisticHead", LEVELS, True, "standardised one-vs-rest logistic regression"),
    "lightgbm": HeadSpec("fuse.heads_boosted:LightGBMHead", LEVELS, True, "gradient-boosted trees"),
    "mean": HeadSpec("fuse.heads_mean:MeanHead", ("logits",), False, "average of the networks' own probabilities"),
}
"""Head name -> what it is."""


def head_spec(name: str) -> HeadSpec:
    """Entry of a head; an unknown name lists the known."""
    if name not in HEADS:
        raise UnknownNameError("head", name, tuple(HEADS))
    return HEADS[name]


def make_head(name: str, **parameters: Any) -> Any:
    """A scikit-learn classifier by name.

    Parameters
    ----------
    name : str
        One of `HEADS`.
    **parameters
        Of that classifier, such as ``random_state`` or ``C``.

    Returns
    -------
    classifier
        ``fit(X, y, groups=None)``, ``predict_proba(X)``, ``classes_``.

    Raises
    ------
    UnknownNameError
        If no head has this name.
    """
    module, _, attribute = head_spec(name).factory.partition(":")
    return getattr(import_module(module), attribute)(**parameters)
