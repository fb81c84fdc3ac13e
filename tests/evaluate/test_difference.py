"""Two results are compared by name, by sources, across runs, and with predictions from elsewhere."""

import csv
import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache import terminal
from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate import Difference, compare, score
from moodfuse.evaluate.evaluation import run_labels
from moodfuse.evaluate.intervals import Interval, resample_groups
from moodfuse.evaluate.paired import sign_flip_p
from moodfuse.evaluate.planned import VIDEO_TO_AUDIO, planned_tests
from moodfuse.evaluate.report import difference_values, print_difference
from tests.evaluate.test_planned import make_run as planned_run

MakeRun = Callable[..., Run]
ABOUT_ZERO = Interval(-0.021, 0.135)
FIRST, SECOND = "c3d network logits", "c3d+i3d mean logits"


def write_table(file: Path, header: list[str], rows: list[list[object]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def test_the_report_and_a_comparison_give_one_answer() -> None:
    """Named by sources, two results have the head, difference, interval and p-value of the planned test."""
    run = planned_run()
    planned = planned_tests(run, run_labels(run), resample_groups(run.groups, draws=10))
    tests = {test.outcome: test for test in planned if test.question == VIDEO_TO_AUDIO}
    difference = compare(run, "speech+music", "faces+music+speech", draws=10)
    assert (difference.first, difference.second) == (tests["accuracy"].against, tests["accuracy"].result)
    assert difference.test == "corrected resampled t test over 30 groups and 2 fold plans"
    for outcome, test in tests.items():
        gain = getattr(difference, outcome)
        assert (gain.difference, gain.ci95, gain.p_value) == (test.difference, test.interval, test.p_value)
        assert gain.second - gain.first == pytest.approx(gain.difference)
    assert difference.macro_f1.p_value is None and difference.auc is not None


def test_values_are_those_of_the_results(make_run: MakeRun) -> None:
    """Each side has the metrics of `score`, and the order of the two changes the sign alone."""
    run = make_run()
    there, back = compare(run, FIRST, SECOND, draws=50), compare(run, SECOND, FIRST, draws=50)
    table = {result.name: result.probabilities for result in run.results}
    for side, name in (("first", FIRST), ("second", SECOND)):
        total = score(run.labels, table[name], run.groups, classes=run.classes, draws=5)
        for metric in ("accuracy", "macro_f1", "auc", "log_loss"):
            assert getattr(getattr(there, metric), side) == pytest.approx(getattr(total, metric))
    for metric in ("accuracy", "macro_f1", "auc", "log_loss"):
        one, other = getattr(there, metric), getattr(back, metric)
        assert one.difference == pytest.approx(-other.difference) and one.p_value == other.p_value
        assert one.ci95.low == pytest.approx(-other.ci95.high)
        assert one.ci95.low <= one.difference <= one.ci95.high


def test_clips_that_changed(make_run: MakeRun) -> None:
    """They are right in one result alone, and their balance is the difference of accuracy."""
    run = make_run()
    difference = compare(run, FIRST, SECOND, draws=2)
    labels = dict(zip(run.ids, run.labels, strict=True))
    balance = 0
    for clip in difference.changed:
        assert clip.label == labels[clip.id]
        right = {"right": clip.second, "wrong": clip.first}[clip.became]
        assert right == clip.label and clip.first != clip.second
        balance += 1 if clip.became == "right" else -1
    assert balance == round(36 * difference.accuracy.difference)
    assert compare(run, run.results[0].probabilities, FIRST, draws=2).changed == ()


def test_clips_of_another_run_are_matched_by_id(make_run: MakeRun) -> None:
    """In any order; other clips, labels or files are an error, and names have their run."""
    run = make_run()
    turned = replace(
        run,
        name="two",
        results=tuple(
            Result(one.sources, one.head, one.level, one.probabilities[::-1]) for one in run.results
        ),
        missing=(),
        repeat_folds=(),
        **{key: getattr(run, key)[::-1] for key in ("ids", "labels", "groups", "folds", "digests")},
    )
    difference = compare(run, FIRST, FIRST, against=turned, draws=2)
    assert difference.accuracy.difference == 0 and difference.changed == ()
    assert difference.second == f"{FIRST} (two)"
    assert compare(run, FIRST, SECOND, against=turned, draws=2).accuracy == (
        compare(run, FIRST, SECOND, draws=2).accuracy
    )
    for changes in ({"ids": ("x", *turned.ids[1:])}, {"labels": turned.labels[1:] + turned.labels[:1]}):
        with pytest.raises(InputError, match="runs one and two differ in classes, clips, labels or files"):
            compare(run, FIRST, FIRST, against=replace(turned, **changes))
    with pytest.raises(InputError, match="run two has no part in this comparison"):
        compare(run, FIRST, "other.csv", against=turned)


def test_predictions_from_elsewhere_are_taken_as_given(make_run: MakeRun, tmp_path: Path) -> None:
    """A CSV file in any order, with rounded probabilities and other clips, and the same table as an array."""
    run = make_run()
    other = run.results[1].probabilities.round(3)
    rows = [[clip, *values[::-1]] for clip, values in zip(run.ids, other, strict=True)]
    file = write_table(tmp_path / "other.csv", ["id", "c", "b", "a"], [["more", 1, 0, 0], *rows[::-1]])
    difference = compare(run, FIRST, str(file), draws=20)
    array = compare(run, FIRST, other / other.sum(axis=1, keepdims=True), draws=20)
    assert (difference.accuracy, difference.log_loss) == (array.accuracy, array.log_loss)
    labels = run_labels(run)
    gains = (other.argmax(axis=1) == labels) * 1.0 - (run.results[0].probabilities.argmax(axis=1) == labels)
    sums = resample_groups(run.groups, draws=2).group_sums(gains)
    assert difference.accuracy.p_value == sign_flip_p(sums)
    assert difference.test == "sign-flip test (accuracy) and paired t test (log loss) over 18 groups"
    assert (
        difference.second == "other.csv"
        and "other.csv: the predictions are taken as given" in (difference.notes[0])
    )
    corrected = compare(run, FIRST, "i3d network logits", draws=20).log_loss
    assert corrected and difference.log_loss
    width = difference.log_loss.ci95.high - difference.log_loss.ci95.low
    assert corrected.ci95.high - corrected.ci95.low > 1.2 * width


class Frame:
    """What `compare` uses of a pandas DataFrame of probabilities [N, C]."""

    def __init__(self, index: list[str], columns: list[str], values: np.ndarray) -> None:
        self.index, self.columns, self.values = index, columns, values

    @property
    def loc(self) -> "_Rows":
        return _Rows(self)

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return self.values.astype(dtype)


class _Rows:
    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def __getitem__(self, ids: list[str]) -> Frame:
        rows = [self.frame.index.index(clip) for clip in ids]
        return Frame(ids, self.frame.columns, self.frame.values[rows])


def test_rows_of_a_data_frame_go_by_its_index(make_run: MakeRun) -> None:
    """Where the index has the ids of the clips; and what is not numbers is refused."""
    run = make_run()
    values = run.results[1].probabilities
    order = np.random.default_rng(0).permutation(len(values))
    frame = Frame([run.ids[row] for row in order], list(run.classes), values[order])
    expected = compare(run, FIRST, values, draws=2)
    assert compare(run, FIRST, frame, draws=2).accuracy == expected.accuracy  # type: ignore[arg-type]
    with pytest.raises(InputError, match="probabilities are not numbers"):
        compare(run, FIRST, np.array(run.labels), draws=2)


def test_what_cannot_be_compared_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    """A result with itself, and an empty cell of a CSV file."""
    run = make_run()
    with pytest.raises(InputError, match=f"both sides are {FIRST}; name two results"):
        compare(run, FIRST, FIRST, draws=2)
    rows = [[clip, 0.5, "", 0.5] for clip in run.ids]
    file = write_table(tmp_path / "other.csv", ["id", "a", "b", "c"], rows)
    with pytest.raises(InputError, match="line 2: b is empty; expected a probability"):
        compare(run, FIRST, file, draws=2)


def test_fold_plans_count_alike_against_given_predictions(make_run: MakeRun) -> None:
    """The sign-flip test of a result under two plans is of half points, which are not rounded."""
    run = make_run()
    repeated = compare(run, run.results[0].probabilities, "c3d+i3d softmax logits", draws=2)
    tables = run.results[3].over_plans
    labels = run_labels(run)
    right = (tables.argmax(axis=2) == labels).sum(axis=0)
    gains = right - 2 * (run.results[0].probabilities.argmax(axis=1) == labels)
    sums = resample_groups(run.groups, draws=2).group_sums(gains)
    assert (sums % 2).any() and repeated.accuracy.p_value == sign_flip_p(sums)


@pytest.mark.parametrize("column", ["predicted", "label"])
def test_labels_alone_have_no_auc_and_no_log_loss(make_run: MakeRun, tmp_path: Path, column: str) -> None:
    """Accuracy and macro F1 are those of the labels; JSON has null."""
    run = make_run()
    predicted = [run.classes[index] for index in run.results[1].probabilities.argmax(axis=1)]
    rows: list[list[object]] = [[*pair] for pair in zip(run.ids, predicted, strict=True)]
    difference = compare(run, FIRST, write_table(tmp_path / "b.csv", ["id", column], rows), draws=20)
    full = compare(run, FIRST, run.results[1].probabilities, draws=20)
    assert difference.accuracy == full.accuracy and difference.macro_f1 == full.macro_f1
    assert difference.auc is None and difference.log_loss is None
    assert difference.test == "sign-flip test over 18 groups"
    assert "b.csv: labels without probabilities, so AUC and log loss are left out" in difference.notes
    values = json.loads(json.dumps(difference_values(difference), allow_nan=False))
    assert values["schema"] == 1 and values["auc"] is None and values["sentence"] == difference.sentence
    assert set(values["accuracy"]) == {"first", "second", "difference", "ci95", "p_value"}
    assert len(values["accuracy"]["ci95"]) == 2


@pytest.mark.parametrize(
    ("header", "change", "message"),
    [
        (["id", "a", "b", "c"], [], "has no row for 1 of 36 clips of run one, such as 'a/00.mp4'"),
        (["id", "a", "b", "c"], ["a/00.mp4", 0.5, 0.5, 0.5], r"line 2: probabilities are \[0.5, 0.5, 0.5\]"),
        (["id", "a", "b", "c"], ["a/00.mp4", "much", 0, 0], "line 2: a is 'much'; expected a number"),
        (["id", "a", "b", "c"], ["a/01.mp4", 1, 0, 0], "line 3: 'a/01.mp4' has a row already"),
        (
            ["id", "a", "b", "d"],
            ["a/00.mp4", 1, 0, 0],
            r"a column for each class \(a, b, c\), or id and pred",
        ),
        (["id", "x", "y", "label"], ["a/00.mp4", 1, 0, "d"], "line 2: label is 'd'; expected one of a, b, c"),
        (["clip", "a", "b", "c"], ["a/00.mp4", 1, 0, 0], "column.* id missing"),
    ],
)
def test_a_table_that_cannot_be_used(
    make_run: MakeRun, tmp_path: Path, header: list[str], change: list[object], message: str
) -> None:
    """The message has the line, or a clip, and what was expected."""
    run = make_run()
    rows: list[list[object]] = [[clip, 1, 0, 0] for clip in run.ids[1:]]
    file = write_table(tmp_path / "b.csv", header, [*([change] if change else []), *rows])
    with pytest.raises(InputError, match=message):
        compare(run, FIRST, file)


def test_unknown_names_list_the_known_ones(make_run: MakeRun) -> None:
    """A name with a typing error, and sources without a common head."""
    with pytest.raises(
        InputError, match="no result 'c4d'; expected a name .*sources .c3d, i3d, c3d.i3d., or another --run$"
    ):
        compare(make_run(), "c4d", SECOND)
    with pytest.raises(InputError, match="have no head and level in common; name each result in full"):
        compare(make_run(), "c3d", "c3d+i3d")


def test_sentences_are_plain(make_run: MakeRun) -> None:
    """They have the difference, the interval and p, and a remark where interval and test disagree."""

    def sentence(difference: float, p_value: float, ci95: Interval = ABOUT_ZERO) -> str:
        gain = replace(base.accuracy, difference=difference, p_value=p_value, ci95=ci95)
        return replace(base, first="a", second="b", accuracy=gain).sentence

    base: Difference = compare(make_run(), FIRST, SECOND, draws=2)
    assert sentence(0.058, 0.17) == (
        "No significant difference in accuracy (+5.8 points, 95 % CI -2.1 to +13.5, p = 0.17): b compared "
        "with a."
    )
    assert sentence(-0.058, 0.012, Interval(-0.1, -0.01)) == (
        "b lowers accuracy by 5.8 points (95 % CI -10.0 to -1.0, p = 0.012), compared with a."
    )
    disagree = sentence(0.058, 0.063, Interval(0.01, 0.1))
    assert "p = 0.063; the interval is approximate, the p-value is exact): b" in disagree
    assert "no interval: too few groups" in sentence(0.1, 1.0, Interval(np.nan, np.nan))


def test_no_line_of_a_table_wraps(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 columns hold both tables, with long names of clips and classes; numbers are not cut."""
    monkeypatch.setattr(terminal, "terminal_width", lambda stream: 80)
    run = make_run(classes=("an emotion with a long name", "b", "c"))
    run = replace(run, ids=tuple(f"{'folder/' * 12}{clip}" for clip in run.ids))
    difference = compare(run, FIRST, SECOND, draws=20)
    print_difference(difference)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and difference.changed
    names = ("accuracy, %", "macro F1, %", "AUC", "log loss, nats")
    rows = [line for line in lines if line.startswith(names)]
    assert len(rows) == 4 and all(row.count("[") == row.count("]") == 1 for row in rows)
    words = [line.split()[-1] for line in lines if line.startswith("folder/") and "  " in line]
    assert words == [clip.became for clip in difference.changed]


def test_a_leaky_run_is_marked(make_run: MakeRun) -> None:
    assert compare(make_run(protocol="leaky"), FIRST, SECOND, draws=2).notes[0].startswith("LEAKY")
    assert compare(make_run(), FIRST, SECOND, draws=2).notes == ()


def test_intervals_cover_and_false_positives_are_rare() -> None:
    """Within the noise of 200 data sets, for given predictions in groups of unequal size."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "compare_systems.py"))
    sizes = script["LAYOUTS"]["59 groups of 1 to 8"]
    gains = [
        compare(*script["draw_given"](sizes, (0.6, 0.6), np.random.default_rng(seed)), draws=2).accuracy
        for seed in range(200)
    ]
    assert np.mean([gain.ci95.low <= 0 <= gain.ci95.high for gain in gains]) >= 0.9
    assert np.mean([gain.p_value is not None and gain.p_value < 0.05 for gain in gains]) <= 0.08
