"""Tables on the terminal: names of sources and labels are printed as they are."""

import numpy as np
import pytest

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.report.terminal import print_table

LABEL, SOURCE = "a\x1b[2Jb", "[bold]c3d[/bold]:smile:"


def test_names_are_neither_markup_nor_control_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets and colons of a source stay, and escape bytes of a label are shown escaped."""
    labels = np.arange(24) % 3
    probabilities = 0.7 * np.random.default_rng(1).dirichlet(np.ones(3), 24) + 0.3 * np.eye(3)[labels]
    classes = (LABEL, "b", "c")
    run = Run(
        name="run-1",
        protocol="crossfit",
        classes=classes,
        ids=tuple(map(str, range(24))),
        labels=tuple(classes[label] for label in labels),
        groups=tuple(map(str, range(24))),
        folds=tuple(row // 3 % 3 for row in range(24)),
        fold_count=3,
        seed=0,
        recipes=(),
        results=tuple(Result((SOURCE,), head, "logits", probabilities) for head in ("network", "softmax")),
        commands=(),
    )
    print_table(evaluate_run(run, draws=50))
    printed = capsys.readouterr().out
    assert printed.count(SOURCE) >= 2 and "a\\x1b[2Jb" in printed and "\x1b" not in printed
