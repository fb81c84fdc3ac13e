"""`MODEL.md`: names of labels, sources and notes are shown as they are, and are not Markdown."""

import re
from typing import Any

import pytest

from moodfuse.model.card import ModelCard, ModelSource, model_summary

RECIPE: Any = type("Recipe", (), {"source": "onedmcnn|x", "modality": "sound"})()
METRICS = ("accuracy", "macro_f1", "auc", "log_loss", "ece")


def card(label: str) -> ModelCard:
    """A model of two labels, one of which is also in its name and its note."""
    expected: dict[str, Any] = {"clips": 8, "groups": 8} | dict.fromkeys(METRICS, 0.5)
    return ModelCard(
        name=label,
        run="run-1",
        protocol="crossfit",
        head="softmax",
        level="logits",
        classes=tuple(sorted(("sad", label))),
        sources=(ModelSource(RECIPE, None, (), 0),),
        head_kind="linear",
        head_facts={},
        temperature=1.0,
        chosen=True,
        decoder="1",
        impute=False,
        training={"clips": 8, "groups": 8, "labels": {label: 4, "sad": 4}},
        expected=expected | {f"{name}_ci95": [0.4, 0.6] for name in METRICS},
        notes=(f"about {label}",),
    )


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("happy", "happy"),
        ("a|b", r"a\|b"),
        ("a\n# b", r"a\\n\# b"),
        ("<script>", r"\<script\>"),
        ("`a` *b* _c_", r"\`a\` \*b\* \_c\_"),
        ("![a](b)", r"\!\[a\]\(b\)"),
        ("a\x1b[2Jb\u202ec", r"a\\x1b\[2Jb\\u202ec"),
    ],
)
def test_a_label_is_shown_as_it_is(label: str, shown: str) -> None:
    """Heading, labels, counts and notes show it escaped, and the table of scores keeps its three columns."""
    text = model_summary(card(label))
    assert text.startswith(f"# {shown}\n")
    assert f"- trained on 8 clips in 8 groups: {shown} 4, sad 4\n" in text
    assert f"\nNote: about {shown}.\n" in text
    assert text.count(shown) == 4 and (shown == label or label not in text.replace(shown, ""))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(METRICS) and {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {5}
    assert r"- sources: onedmcnn\|x" in text
    assert "reads audio only: files without video are labelled, those without audio refused" in text
