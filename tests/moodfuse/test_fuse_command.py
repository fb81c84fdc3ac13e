"""`moodfuse fuse --export`: what cannot be met is said before anything is fitted."""

from typing import Any

import pytest

from moodfuse import fuse_command
from moodfuse.cli import main
from moodfuse.export import BEST

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--export", BEST, "--model", "."], ".: already exists"),
        (["--export", "c4d softmax logits"], "unknown result 'c4d softmax logits'; known: onedmcnn@brief"),
        (
            ["--export", QUICK, "--run", "fewer", "--head", "mean"],
            "--head changes nothing of fewer, which is there",
        ),
        (
            ["--export", QUICK, "--run", "fewer", "--jobs", "1"],
            "--jobs changes nothing of fewer, which is there",
        ),
        (["--model", "x"], "--model belongs to --export; add --export best"),
        (["--missing", "impute"], "--missing belongs to --export; add --export best"),
    ],
)
def test_a_wish_that_cannot_be_met_fuses_nothing(
    arguments: list[str], said: str, trained: Any, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Exit code 2 and the reason, before stage two is called."""
    monkeypatch.setattr(fuse_command.stage_two, "callback", lambda **options: pytest.fail("it was fused"))
    with pytest.raises(SystemExit) as stopped:
        main(["fuse", "--cache", str(trained.cache.path), *arguments])
    assert stopped.value.code == 2 and said in " ".join(capfd.readouterr().err.split())
