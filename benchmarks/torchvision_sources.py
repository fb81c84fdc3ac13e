"""Two of torchvision's video models, with random weights, fused with the music tagger on the clips in MOODFUSE_CLIPS.

Usage: torchvision_sources.py. The tagger takes its weights from the folder MOODFUSE_WEIGHTS where that is set.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = ("torchvision:r3d_18", "torchvision:s3d")


def run(*arguments: str) -> None:
    """One moodfuse command; its failure ends the benchmark."""
    subprocess.run([sys.executable, "-m", "moodfuse", *arguments], check=True)


def main() -> int:
    """Print what each pair and all three give."""
    clips, place = os.environ.get("MOODFUSE_CLIPS"), os.environ.get("MOODFUSE_WEIGHTS")
    if not clips:
        print("skipped: MOODFUSE_CLIPS is not set: no folder of real clips")
        return 0
    weights = ["--weights", f"twodmcnn={next(Path(place).glob('*.hdf5'))}"] if place else []
    with tempfile.TemporaryDirectory() as folder:
        cache = ["--cache", f"{folder}/cache"]
        run("extract", clips, *cache, *(f"--source={name}" for name in (*MODELS, "twodmcnn")), *weights)
        pairs = [f"--combine={name}+twodmcnn" for name in (*MODELS, "+".join(MODELS))]
        run("fuse", *cache, *pairs)
        run("evaluate", *cache)
    return 0


if __name__ == "__main__":
    sys.exit(main())
