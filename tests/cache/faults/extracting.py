"""`moodfuse extract` in this process, as work for a disk that refuses.

What a disk has no part in is computed once: decoding, the passes through the network, the estimate. So a run takes a
fraction of a second and its writes are the real ones.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from faults.refusals import Work
from moodfuse.cli import main
from moodfuse.extract import inference, pending
from moodfuse.extract.dataset import ingest as examine
from moodfuse.extract.media.limits import Limits
from moodfuse.extract.media.pool import DecodeRequest
from moodfuse.synthetic_corpus import ClipSettings, make_clip

COMMAND = ("--source", "onedmcnn", "--folds", "2", "--jobs", "1", "--device", "cpu", "--no-crossfit")
RECIPE = """
name = "default"
threads = 2
[onedmcnn]
depth = "full"
full = { optimizer = "adam", learning_rate = 1e-3, epochs = 2, batch = 4, crop_s = 2.0 }
"""


def make_clips(folder: Path) -> Path:
    """Four clips of a second, two of either label."""
    for number in range(4):
        label = "excited" if number % 2 else "sad"
        (folder / label).mkdir(parents=True, exist_ok=True)
        settings = ClipSettings(duration_s=1.0, width=32, height=24, seed=number)
        make_clip(folder / label / f"{number}.mp4", mood=label, settings=settings)
    return folder


@contextlib.contextmanager
def computing_once() -> Iterator[None]:
    """Remember what is decoded and computed."""
    decode, rows, measure = examine.decode_many, inference.SourceWorker.frozen_rows, pending.measure
    known: dict[Any, Any] = {}

    def decode_many(
        requests: Iterable[DecodeRequest], *, jobs: int, limits: Limits
    ) -> Iterator[tuple[DecodeRequest, Any]]:
        requests = list(requests)
        if new := [request for request in requests if request not in known]:
            known.update(decode(new, jobs=jobs))
        return iter([(request, known[request]) for request in requests])

    def frozen_rows(worker: inference.SourceWorker, digest: str) -> Any:
        if digest not in known:
            known[digest] = rows(worker, digest)
        return known[digest]

    def measured(*given: Any, **named: Any) -> Any:
        if "estimate" not in known:
            known["estimate"] = measure(*given, **named)
        return known["estimate"]

    with (
        patch.object(examine, "decode_many", decode_many),
        patch.object(inference.SourceWorker, "frozen_rows", frozen_rows),
        patch.object(pending, "measure", measured),
    ):
        yield


def extracting(clips: Path, *, depth: str = "frozen") -> Work:
    """The command on some clips; call it within `computing_once`, and not at once with another depth."""
    recipe = clips.with_suffix(".toml")
    recipe.write_text(RECIPE)

    def work(root: Path) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main(
                    [
                        "extract",
                        str(clips),
                        "--cache",
                        str(root),
                        "--recipe",
                        str(recipe),
                        "--tune",
                        depth,
                        *COMMAND,
                    ]
                )
            except SystemExit as end:
                return int(end.code or 0), said.getvalue()
        return -1, said.getvalue()

    return work
