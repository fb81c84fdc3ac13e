"""Commands on a small dataset for tests of networks of other packages."""

import csv
import shutil
from pathlib import Path

from click.testing import CliRunner

from moodfuse.cli import group
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

RECIPE = """
name = "default"
threads = 1
[onedmcnn]
depth = "frozen"
[other]
head = { optimizer = "adamw", learning_rate = 5e-3, epochs = 2, patience = 2, batch = 8 }
full = { optimizer = "adamw", learning_rate = 5e-3, epochs = 1, batch = 4, mixup = 0.2, layer_decay = 0.5 }
"""


def run(*arguments: object) -> str:
    """Run a command and return its standard output."""
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(group, texts, catch_exceptions=False, prog_name="moodfuse")
    assert result.exit_code == 0, result.output
    return result.stdout


def make_dataset(folder: Path) -> None:
    """Eight clips in two folds, decoded in `work` with the features of a frozen network."""
    clip = ClipSettings(duration_s=2.0, width=64, height=48)
    settings = CorpusSettings(labels=("sad", "excited"), groups_per_label=4, clips_per_group=(1,), clip=clip)
    table = make_corpus(folder / "clips", settings=settings)
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [{**row, "fold": str(number % 2)} for number, row in enumerate(csv.DictReader(stream))]
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "tiny.toml").write_text(RECIPE)
    recipe = ("--recipe", folder / "tiny.toml", "--jobs", 1)
    run("extract", table, "--cache", folder / "work", "--source", "onedmcnn", *recipe)


def export_model(
    dataset: Path,
    source: str,
    folder: Path,
    weights: object = None,
    depth: str = "head",
    others: tuple[str, ...] = (),
) -> Path:
    """Tune a source, fuse it with the frozen network, and export the model into `folder`.

    `others` are more options of `extract`.
    """
    cache = shutil.copytree(dataset / "work", folder / "work")
    options = ["--source", source, "--tune", f"{source}={depth}", "--for-export", "--jobs", 1]
    options += ["--recipe", dataset / "tiny.toml", *others]
    if weights is not None:
        options += ["--weights", f"{source}={weights}"]
    run("extract", dataset / "clips/clips.csv", "--cache", cache, *options)
    combination = "+".join(sorted(("onedmcnn", source)))
    head = ("--combine", combination, "--head", "softmax", "--level", "logits", "--repeats", 1, "--jobs", 1)
    model = folder / "model"
    run(
        "fuse",
        "--cache",
        cache,
        *head,
        "--export",
        f"{combination} softmax logits",
        "--model",
        model,
        "--force",
    )
    return model
