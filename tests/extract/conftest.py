"""A tiny corpus of real media files, made once a session, and recipes that tune in seconds."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.store import FeatureCache
from extract import announce, streaming
from extract.estimate import Estimate
from extract.recipe_files import RecipeChoice
from extract.stage import Extraction, ExtractSettings, extract_features
from moodfuse.corpus import ClipSettings, make_clip

RECIPE = """
name = "default"
seed = 0
threads = 2
[onedmcnn]
depth = "full"
full = { optimizer = "adam", learning_rate = 1e-3, epochs = 3, patience = 3, batch = 4, crop_s = 2.0 }
[twodmcnn]
depth = "head"
head = { optimizer = "adamw", learning_rate = 1e-2, epochs = 5, batch = 4 }
[c3d]
head = { optimizer = "adamw", learning_rate = 1e-4, epochs = 2, batch = 8 }
"""


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread: beside other work several wait for each other many times longer than they compute."""
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
        """Extract; `self.said` holds what was printed."""
        self.said: list[str] = []
        settings = ExtractSettings(
            data=self.data,
            cache=cache or self.cache,
            sources=sources,
            recipes=RecipeChoice(recipe=str(self.recipe), depths=options.pop("depths", {})),  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        return extract_features(settings, say=self.said.append)

    def keep(self, count: int) -> None:
        """Remove all clips but so many, half of each label."""
        for file in self.data.rglob("*.mp4"):
            if int(file.stem) >= count:
                file.unlink()

    def open(self) -> FeatureCache:
        """The cache as it is on disk."""
        return FeatureCache(self.cache)


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are not timed before they run, which takes as long as several clips; test_estimate.py tests that."""
    for module in (announce, streaming):
        monkeypatch.setattr(module, "measure", lambda *args, **options: Estimate(60.0, 1.0))


@pytest.fixture
def runner(media: Path, tmp_path: Path) -> Runner:
    """Stage one on a copy of the corpus that a test may change."""
    shutil.copytree(media, tmp_path / "clips")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return Runner(tmp_path / "clips", tmp_path / "work", tmp_path / "tiny.toml")
