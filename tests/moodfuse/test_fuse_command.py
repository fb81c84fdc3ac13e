"""`moodfuse fuse --export`: what cannot be exported is refused before anything is fitted."""

from typing import Any

import pytest

from moodfuse import fuse_command
from moodfuse.cli import main
from moodfuse.export import BEST

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--export", BEST, "--model", "."], ".: already exists"),
        (["--export", "c4d softmax logits"], "unknown result 'c4d softmax logits'; known: onedmcnn@brief"),
        (
            ["--export", QUICK, "--run", "fewer", "--head", "mean"],
            "--head has no effect on fewer, which exists",
        ),
        (
            ["--export", QUICK, "--run", "fewer", "--jobs", "1"],
            "--jobs has no effect on fewer, which exists",
        ),
        (["--model", "x"], "--model belongs to --export; add --export best"),
        (["--missing", "impute"], "--missing belongs to --export; add --export best"),
    ],
)
def test_what_cannot_be_exported_fuses_nothing(
    arguments: list[str], message: str, trained: Any, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Exit code 2 and the reason, before stage two is called."""
    monkeypatch.setattr(fuse_command.stage_two, "callback", lambda **options: pytest.fail("it was fused"))
    with pytest.raises(SystemExit) as stopped:
        main(["fuse", "--cache", str(trained.cache.path), *arguments])
    assert stopped.value.code == 2 and message in " ".join(capfd.readouterr().err.split())
