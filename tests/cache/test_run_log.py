"""The log file of a run in its cache."""

import logging
from pathlib import Path

import pytest

from moodfuse.cache.run_log import KEPT, run_log
from moodfuse.cache.storage.layout import find_kind
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.terminal import report, set_quiet

COMMAND = "moodfuse extract clips --cache work"


def read_log(cache: Path) -> str:
    """The only log file."""
    (file,) = cache.glob("logs/*.log")
    assert file.name.startswith("extract-") and find_kind(f"logs/{file.name}") == "output"
    return file.read_text(encoding="utf-8")


def test_the_log_has_the_lines_for_the_user_and_log_records_of_a_quiet_run_too(tmp_path: Path) -> None:
    """The file is made when the folder is a cache, and has what came before."""
    set_quiet(True)
    try:
        with run_log(tmp_path / "work", COMMAND):
            report("48 clips")
            assert not (tmp_path / "work").exists()
            FeatureCache(tmp_path / "work", create=True)
            logging.getLogger("moodfuse.extract").info("Decoding: 48 done")
            logging.getLogger("another").warning("not of moodfuse")
    finally:
        set_quiet(False)
    messages = [line.split(" ", 2)[2] for line in read_log(tmp_path / "work").splitlines()]
    assert messages == [f"INFO {COMMAND}", "INFO 48 clips", "INFO Decoding: 48 done", "INFO finished"]


def test_an_error_is_logged_with_its_traceback_and_raised(tmp_path: Path) -> None:
    """As after Ctrl-C."""
    FeatureCache(tmp_path, create=True)
    with pytest.raises(KeyboardInterrupt), run_log(tmp_path, COMMAND):
        raise KeyboardInterrupt
    assert "stopped by KeyboardInterrupt" in read_log(tmp_path) and "Traceback" in read_log(tmp_path)


def test_a_folder_that_is_no_cache_gets_no_log(tmp_path: Path) -> None:
    """Nothing is written into a folder that was named by mistake."""
    with run_log(tmp_path, COMMAND):
        report("x")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_logs_are_kept(tmp_path: Path) -> None:
    """Old ones of any command are removed."""
    FeatureCache(tmp_path, create=True)
    (tmp_path / "logs").mkdir()
    for number in range(KEPT + 5):
        (tmp_path / "logs" / f"fuse-20200101-{number:06}.log").write_text("")
    with run_log(tmp_path, COMMAND):
        pass
    names = sorted(file.name for file in tmp_path.glob("logs/*.log"))
    assert len(names) == KEPT and names[0].startswith("extract-") and names[1] == "fuse-20200101-000006.log"
