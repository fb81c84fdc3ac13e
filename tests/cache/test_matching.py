"""Rows of a file beside those that a source has."""

from pathlib import Path

import numpy as np
import pytest

from bringing import IDS, Given, bring, write
from cache.parts import write_part
from cache.prune import PRUNED_PREFIX
from cache.store import FeatureCache

pytestmark = pytest.mark.usefixtures("unsynced")


def test_what_is_being_removed_decides_no_width(known: FeatureCache, tmp_path: Path) -> None:
    """A folder that a killed prune left is none of the source's networks."""
    owner = known.owner(known.recipe("other"), None)
    aside = owner.folder.with_name(f"{PRUNED_PREFIX}123")
    arrays = {"clip": known.clips.digests, "embedding": np.ones((6, 5), dtype=np.float32)}
    write_part(aside, "a", arrays, owner.attributes)
    found = np.arange(12.0).reshape(6, 2)
    assert bring(known.path, source="other", **write(tmp_path, Given(IDS, found), ".npz")).written == 0
