"""A tiny corpus of real media files, made once a session, and recipes that tune in seconds."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.store import FeatureCache
from moodfuse.extract import estimate
from moodfuse.extract.estimate import Estimate
from moodfuse.extract.networks import video
from moodfuse.extract.pipeline import Extraction, extract_features
from moodfuse.extract.recipe_files import RecipeChoice
from moodfuse.extract.settings import ExtractSettings
from moodfuse.synthetic_corpus import ClipSettings, make_clip

RECIPE = """
name = "default"
seed = 0
threads = 2
[onedmcnn]
depth = "full"
full = { optimizer = "adam", learning_rate = 1e-3, epochs = 2, patience = 2, batch = 4, crop_s = 2.0 }
[twodmcnn]
depth = "head"
head = { optimizer = "adamw", learning_rate = 1e-2, epochs = 5, batch = 4 }
[c3d]
head = { optimizer = "adamw", learning_rate = 1e-4, epochs = 2, batch = 8 }
"""
FOLDS = PlanChoice(folds=2)
STILL = "onedmcnn@zhou2022-adam"
SOURCES, DEPTHS = ("onedmcnn", "twodmcnn", STILL), {STILL: "frozen"}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread: next to other work, several threads wait for each other much longer than they compute."""
    import torch  # not for every test

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of 2 s: two labels with five clips each."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(10):
        label = "excited" if number % 2 else "sad"
        (folder / label).mkdir(exist_ok=True)
        settings = ClipSettings(duration_s=2.0, width=64, height=48, seed=number)
        make_clip(folder / label / f"{number}.mp4", mood=label, settings=settings)
    return folder


@dataclass
class Runner:
    """Runs stage one on a copy of the corpus."""

    data: Path
    cache: Path
    recipe: Path

    def __call__(
        self, *, cache: Path | None = None, sources: tuple[str, ...] = ("twodmcnn",), **options: object
    ) -> Extraction:
        """Extract; `self.lines` holds what was printed."""
        self.lines: list[str] = []
        choice = RecipeChoice(recipe=str(self.recipe), depths=options.pop("depths", {}))  # type: ignore[arg-type]
        settings = ExtractSettings(
            data=self.data,
            cache=cache or self.cache,
            sources=sources,
            **{"recipes": choice, **options},  # type: ignore[arg-type]
        )
        return extract_features(settings, report=self.lines.append)

    def keep(self, count: int) -> None:
        """Remove all clips but so many, half of each label."""
        for file in self.data.rglob("*.mp4"):
            if int(file.stem) >= count:
                file.unlink()

    def open(self) -> FeatureCache:
        """The cache as it is on disk."""
        return FeatureCache(self.cache)


@contextmanager
def not_timed() -> Iterator[None]:
    """Networks are not timed before they run, which takes as long as several clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "measure", lambda *args, **options: Estimate(60.0, 1.0))
        yield


@pytest.fixture(autouse=True)
def untimed() -> Iterator[None]:
    """No test of this folder times networks before they run."""
    with not_timed():
        yield


def new_runner(media: Path, folder: Path) -> Runner:
    """Stage one on a copy of the corpus in a folder."""
    shutil.copytree(media, folder / "clips")
    (folder / "tiny.toml").write_text(RECIPE)
    return Runner(folder / "clips", folder / "work", folder / "tiny.toml")


@pytest.fixture
def runner(media: Path, tmp_path: Path) -> Runner:
    """Stage one on a copy of the corpus that a test may change."""
    return new_runner(media, tmp_path)


@pytest.fixture(scope="session")
def heads_cache(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the whole corpus with two folds and tuned heads of twodmcnn; not to be changed."""
    runner = new_runner(media, tmp_path_factory.mktemp("heads"))
    runner(plan=FOLDS)
    return runner.cache


@pytest.fixture
def extracted(runner: Runner, heads_cache: Path) -> Runner:
    """Stage one that has run: its cache is a copy of `heads_cache`."""
    shutil.copytree(heads_cache, runner.cache)
    return runner


@dataclass(frozen=True)
class Depths:
    """A finished run on four clips in two folds: one source tuned whole, one at its head, one frozen."""

    runner: Runner
    done: Extraction
    lines: tuple[str, ...]


@pytest.fixture(scope="session")
def all_depths(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Depths:
    """A run of `SOURCES` at `DEPTHS`; its cache is not to be changed."""
    runner = new_runner(media, tmp_path_factory.mktemp("depths"))
    runner.keep(4)
    done = runner(sources=SOURCES, depths=DEPTHS, plan=FOLDS)
    return Depths(runner, done, tuple(runner.lines))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """c3d and i3d with few channels, for tests of what happens around them."""
    widths = (4, 4, 4, 4, 4, 4, 4, 512)
    names = [name for name, _, _ in video.C3D_CONVOLUTIONS]
    monkeypatch.setattr(video, "C3D_CONVOLUTIONS", tuple(zip(names, (3, *widths), widths, strict=False)))
    stem = {name: (4, kernel, stride) for name, (_, kernel, stride) in video.I3D_CONVOLUTIONS.items()}
    monkeypatch.setattr(video, "I3D_CONVOLUTIONS", stem)
    last = list(video.MIXED)[-1]
    monkeypatch.setattr(video, "MIXED", dict.fromkeys(video.MIXED, (1,) * 6) | {last: video.MIXED[last]})
