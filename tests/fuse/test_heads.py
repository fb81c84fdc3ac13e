"""Every head is a scikit-learn classifier, finds what is there, and is deterministic."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from cache.errors import UnknownNameError
from fuse import make_head
from fuse.heads import HEADS, head_spec

FITTED = [name for name, spec in HEADS.items() if spec.fits]


@parametrize_with_checks([make_head(name) for name in HEADS])
def test_head_passes_scikit_learn_checks(estimator, check) -> None:
    """scikit-learn's own checks pass, every one of them."""
    check(estimator)
