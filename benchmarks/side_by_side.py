"""What the speed benchmarks share: sides in processes of their own, the machine's ceilings, and rows of one
table.

Each benchmark prints its own rows; where MOODFUSE_BENCH_ROWS names a file they are also written there, and
`side_by_side.py FILE` prints all that a run of `make bench` left as one table.
"""

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

PLAIN = {"GOMP_SPINCOUNT": "300000"}
"""What `moodfuse.extract.runtime` sets, as GNU's OpenMP has it by itself."""
SIZE = 2048


@dataclass(frozen=True)
class Row:
    """One thing measured.

    Attributes
    ----------
    what, ours, baseline : str
        What is compared, and both sides in their own units.
    ratios : sequence of float
        Of every turn; one number where there is one.
    bar : str
        What was aimed at; empty where nothing was.
    met : bool
    limit : float or None
        Ours over the time that the machine's ceilings allow.
    """

    what: str
    ours: str
    baseline: str
    ratios: Sequence[float]
    bar: str = ""
    met: bool = True
    limit: float | None = None

    def cells(self) -> list[str]:
        """The row's cells."""
        low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        ratio = f"{middle:.3g}" if len(self.ratios) == 1 else f"{middle:.3g} ({low:.3g} to {high:.3g})"
        bar = f"{self.bar}: {'met' if self.met else 'MISSED'}" if self.bar else ""
        return [self.what, self.ours, self.baseline, ratio, f"{self.limit:.2f}" if self.limit else "", bar]


HEADER = ("measurement", "moodfuse", "baseline", "ratio (least to most)", "times the limit", "bar")


def report(rows: Sequence[Row]) -> int:
    """Print rows, and keep them for the one table; 1 if a bar was missed."""
    print(table(rows), flush=True)
    if place := os.environ.get("MOODFUSE_BENCH_ROWS"):
        with open(place, "a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    return int(not all(row.met for row in rows))


def table(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


class Side:
    """One side of a comparison in its own process, idle until it is asked.

    Parameters
    ----------
    work : callable
        Of a module; makes what it needs and returns the function that is asked.
    environment : mapping, optional
        What the process starts with, in addition to this one's environment.
    """

    def __init__(
        self, work: Callable[[], Callable[..., Any]], environment: Mapping[str, str] | None = None
    ) -> None:
        self._asked, answering = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(work, answering))
        with patch.dict(os.environ, environment or {}):
            self._process.start()

    def ask(self, *arguments: Any) -> Any:
        """What the side answers."""
        self._asked.send(arguments)
        answer = self._asked.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._asked.send(None)
        self._process.join()


def _serve(work: Callable[[], Callable[..., Any]], asked: Connection) -> None:
    answer = work()
    while (arguments := asked.recv()) is not None:
        try:
            asked.send(answer(*arguments))
        except Exception as error:  # noqa: BLE001 - the asking process raises it
            asked.send(error)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_rate(dtype: str) -> float:
    """Operations a second of a product of two matrices, of a torch type by name."""
    import torch

    one = torch.randn(SIZE, SIZE).to(getattr(torch, dtype))
    torch.set_num_threads(os.cpu_count() or 1)
    return 2 * SIZE**3 / min(seconds_of(lambda: one @ one) for _ in range(8))


def copy_rate() -> float:
    """Bytes a second that one core copies, counted once."""
    source = np.ones(1 << 28, np.uint8)
    target = np.empty_like(source)
    return source.nbytes / min(seconds_of(lambda: np.copyto(target, source)) for _ in range(4))


def decode_s(files: Sequence[Path]) -> float:
    """Seconds of one core to decode a clip as ours does."""
    from moodfuse.extract.media.decode import SHORT_SIDE_PX, read_clip

    start = time.process_time()
    for file in files:
        read_clip(file, short_side_px=SHORT_SIDE_PX)
    return (time.process_time() - start) / len(files)


def ceilings() -> str:
    """What this machine can do, measured now."""
    rates = ", ".join(
        f"{matrix_rate(dtype) / 1e9:.0f} GFLOP/s in {dtype}" for dtype in ("float32", "bfloat16")
    )
    clips = os.environ.get("MOODFUSE_CLIPS")
    decoding = f"; decoding a clip {decode_s(list_clips([clips])[:6]):.2f} s of a core" if clips else ""
    return f"products of matrices {rates}; copying {copy_rate() / 1e9:.1f} GB/s on one core{decoding}"


def list_clips(arguments: Sequence[str]) -> list[Path]:
    """The files of a folder of clips and, after it, how many of them; those of MOODFUSE_CLIPS where none is
    given.
    """
    given = arguments or [os.environ.get("MOODFUSE_CLIPS", "")]
    if not given[0]:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    every = sorted(Path(given[0]).rglob("*.mp4"))
    count = int(given[1]) if len(given) > 1 else len(every)
    return every[:: max(1, len(every) // count)][:count]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print("nothing to measure here: prints the rows of a file")
        sys.exit(0)
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    print(f"{os.cpu_count()} cores; {ceilings()}\n")
    print(table([Row(**json.loads(line)) for line in lines]))
