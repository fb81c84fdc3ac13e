"""The log file of a run: ``<cache>/logs/<command>-<time>.log``."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moodfuse.cache.manifest import MARKER
from moodfuse.cache.terminal import LogFormatter, lines_log

KEPT = 20
"""Log files of a cache; older ones are removed."""
_log = logging.getLogger("moodfuse")


class _CacheHandler(logging.FileHandler):
    """Writes records to a file in a cache; until the folder is a cache, they wait."""

    def __init__(self, cache: Path, name: str) -> None:
        super().__init__(cache / "logs" / name, encoding="utf-8", errors="backslashreplace", delay=True)
        self._cache, self._waiting = cache, list[logging.LogRecord]()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after those that wait."""
        self._waiting.append(record)
        if not (self._cache / MARKER).is_file():
            return
        with suppress(OSError):  # a log that cannot be written does not stop the run
            Path(self.baseFilename).parent.mkdir(exist_ok=True)
            for waiting in self._waiting:
                super().emit(waiting)
        self._waiting.clear()

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a full disk; see `emit`."""


@contextmanager
def run_log(cache: Path, command: str) -> Iterator[None]:
    """Write the log of a command to a file in its cache, with the lines for the user and any error.

    `command` is the command line, whose second word names the file. A folder that is not a cache yet gets its
    log when it is one.
    """
    name = f"{command.split()[1]}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    handler = _CacheHandler(cache, name)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    level = _log.level
    _log.setLevel(logging.INFO)
    _log.addHandler(handler)
    try:
        lines_log.info("%s", command)
        yield
        lines_log.info("finished")
    except BaseException as error:
        lines_log.info("stopped by %s", type(error).__name__, exc_info=True)
        raise
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        handler.close()
        for old in sorted(cache.glob("logs/*.log"), key=lambda path: path.name.split("-", 1)[1])[:-KEPT]:
            with suppress(OSError):
                old.unlink()
