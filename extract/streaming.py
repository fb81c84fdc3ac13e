"""Media that are not kept: each clip is decoded once and passes the trunks of all sources while it is in memory.

What was decoded is written nowhere but for one case: an audio network that is tuned whole reads every clip's sound in
every epoch, so the sound of all clips stands in a temporary folder outside the cache until the run ends. A video
network cannot be tuned whole in this way. Under `strict` and `dry_run` no feature may be written before every clip was
judged, so there the clips are decoded for that first, and once more for the trunks.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.media import Media, MediaStore
from moodfuse.cache.planning import next_plan
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.store import CLIPS_PER_PART, FeatureCache
from moodfuse.extract.dataset.ingest import Decoding, decode_again, examine
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.media.renditions import media_of, preprocessing_of, rendered, store_for
from moodfuse.extract.media_supply import KeptMedia, MediaSupply
from moodfuse.extract.networks import AudioPreprocessing
from moodfuse.extract.pending import Work, needing_media
from moodfuse.extract.runtime import give_back_freed_memory
from moodfuse.extract.training.estimate import Estimate, is_long, measure

if TYPE_CHECKING:
    from moodfuse.extract.embed import SourceWorker
    from moodfuse.extract.pipeline import ExtractSettings


@contextmanager
def media_supply(
    cache: FeatureCache, recipes: Sequence[Recipe], settings: "ExtractSettings", say: Callable[[str], None]
) -> Iterator[MediaSupply]:
    """Whoever decodes the clips of a run: into the cache, or past it under ``--no-keep-media``.

    Raises
    ------
    InputError
        If a video network shall be tuned whole without kept media.
    """
    if settings.keep_media:
        yield KeptMedia(cache, recipes, Decoding(settings.jobs, impute=settings.impute, rules=settings.rules))
        return
    for recipe in recipes:
        if recipe.depth == "full" and recipe.view == "picture":
            raise InputError(
                f"{recipe.source}: tuned whole, a video network reads every clip's frames in every epoch, which "
                f"--no-keep-media does not keep; drop --no-keep-media, or use --tune {recipe.source}=head"
            )
    with tempfile.TemporaryDirectory(prefix="moodfuse-") as folder:
        yield StreamedMedia(cache, recipes, settings, say, Path(folder))


class Trunk:
    """The frozen trunk of a source at work on clips in memory; its rows wait until a part is full.

    Parameters
    ----------
    cache : FeatureCache
    recipe : Recipe
        Frozen.
    weights : str or None
        As for `SourceWorker`.
    """

    def __init__(self, cache: FeatureCache, recipe: Recipe, weights: str | None) -> None:
        self.cache, self.recipe, self.weights = cache, recipe, weights
        self.embedded = 0
        self._worker: SourceWorker | None = None
        self._in_hand = InHand()
        self._rows: dict[str, dict[str, np.ndarray]] = {}
        self._held = cache.held(recipe, None)

    def lacks(self, digest: str) -> bool:
        """Whether the cache had no row of a clip when this was last looked up, nor is one waiting."""
        return digest not in self._held and digest not in self._rows

    def add(self, digest: str, media: Media) -> None:
        """Pass a clip through the trunk; every so many clips their rows are written."""
        self._in_hand.media = media
        self._rows[digest] = self._ready().frozen_rows(digest)
        self.embedded += 1
        if len(self._rows) == CLIPS_PER_PART:
            self.flush()

    def _ready(self) -> "SourceWorker":
        if self._worker is None:
            from moodfuse.extract.embed import SourceWorker, make_network

            network = make_network(self.recipe, self.weights, num_classes=2)
            self._worker = SourceWorker(self.recipe, network, self._in_hand)
        return self._worker

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._rows:
            self.cache.write_recipe(self.recipe)
            names = next(iter(self._rows.values()))
            arrays = {name: np.stack([row[name] for row in self._rows.values()]) for name in names}
            self.cache.write_block_part(self.recipe, None, list(self._rows), arrays)
            self._rows = {}
        self._held = self.cache.held(self.recipe, None)


class InHand:
    """The clip that is in memory, where `SourceWorker` looks for it."""

    media: Media

    def read(self, digest: str) -> Media:
        """The clip in hand."""
        return self.media


class StreamedMedia:
    """Clips are decoded past the cache.

    Parameters
    ----------
    cache : FeatureCache
    recipes : sequence of Recipe
        Of the chosen sources.
    settings : ExtractSettings
    say : callable
        Takes each line that the user should read.
    folder : Path
        Outside the cache; the sound for audio networks that are tuned whole stands there.
    """

    def __init__(
        self,
        cache: FeatureCache,
        recipes: Sequence[Recipe],
        settings: "ExtractSettings",
        say: Callable[[str], None],
        folder: Path,
    ) -> None:
        self.cache, self.settings, self.say, self.folder = cache, settings, say, folder
        self._trunks: dict[tuple[str, str], Trunk] = {}
        tuned_whole = any(recipe.depth == "full" for recipe in recipes)
        self._sounding: Callable[[str], bool] = lambda digest: tuned_whole
        for recipe in recipes:
            if recipe.depth != "full":
                frozen = frozen_counterpart(recipe)
                weights = settings.recipes.weights_of(recipe.source)
                self._trunks.setdefault((frozen.source, frozen.digest16), Trunk(cache, frozen, weights))

    @property
    def embedded(self) -> int:
        """Clips that passed a trunk, counted once a network."""
        return sum(trunk.embedded for trunk in self._trunks.values())

    def store(self, recipe: Recipe) -> MediaStore:
        """Where a network that is tuned whole reads its clips."""
        return store_for(self.folder, preprocessing_of(recipe))

    def examine(self, clips: Sequence[Clip]) -> list[ClipStatus]:
        """Status of every clip; what is not known yet is decoded and passes the trunks, unless that is too early."""
        early = self.settings.strict or self.settings.dry_run
        decoding = replace(self._decoding(), take=None) if early else self._decoding()
        statuses = examine(self.cache, clips, decoding, foresee=None if early else self._foresee)
        self._flush()
        give_back_freed_memory()
        return statuses

    def _decoding(self) -> Decoding:
        asked = self.settings
        return Decoding(
            asked.jobs, impute=asked.impute, rules=asked.rules, take=self._take, piece=CLIPS_PER_PART
        )

    def _foresee(self, statuses: list[ClipStatus], wanted: Collection[str]) -> None:
        """Refuse what no plan can be made of before hours of work, and say how much work it is."""
        next_plan(self.cache.plans, statuses, self.settings.plan)
        trunks = [(trunk, tuple(filter(trunk.lacks, wanted))) for trunk in self._trunks.values()]
        works = [(trunk, Work(trunk.recipe, digests, (), 0, 0)) for trunk, digests in trunks if digests]
        long = [(trunk, work) for trunk, work in works if is_long(work)]
        cost = sum((measure(work, trunk.weights, classes=("", "")) for trunk, work in long), Estimate())
        about = f": about {cost.seconds / 60:.1f} minutes, {cost.megabytes:.0f} MB" if long else ""
        give_back_freed_memory()
        names = ", ".join(work.recipe.source for _, work in works) or "no trunk"
        self.say(f"{len(wanted)} clips to decode once, past {names}{about}; nothing decoded is kept")
        if any(map(self._sounding, wanted)):
            self.say(f"their sound stands in {self.folder} until the end: an audio network is tuned whole")

    def supply(self, todo: Sequence[Work]) -> Sequence[Work]:
        """Decode what has to pass a trunk still, or whose sound is needed; what is left is the tuning."""
        passing: dict[str, list[Trunk]] = {}
        sounding: set[str] = set()
        clips: dict[str, Clip] = {}
        for item in todo:
            frozen = frozen_counterpart(item.recipe)
            for status in needing_media(self.cache, [item]):
                if item.recipe.depth != "full":
                    passing.setdefault(status.digest, []).append(self._trunks[frozen.source, frozen.digest16])
                elif self.store(item.recipe).find(status.digest) is None:
                    sounding.add(status.digest)
                else:
                    continue
                clips[status.digest] = status.clip

        def lacking(digest: str) -> bool:
            return digest in sounding or any(trunk.lacks(digest) for trunk in passing.get(digest, ()))

        self._sounding = sounding.__contains__
        decode_again(self.cache, clips, self._decoding(), lacking=lacking)
        self._flush()
        give_back_freed_memory()
        return [replace(item, trunk=()) for item in todo]

    def _take(self, digest: str, clip: Clip, decoded: DecodedClip) -> None:
        if clip.split != "train":
            return
        media = media_of(decoded)
        for trunk in self._trunks.values():
            if trunk.recipe.view != decoded.missing and trunk.lacks(digest):
                trunk.add(digest, media)
        if self._sounding(digest) and decoded.missing != "sound":
            sound = AudioPreprocessing()
            store_for(self.folder, sound).write(digest, rendered(media, sound))

    def _flush(self) -> None:
        for trunk in self._trunks.values():
            trunk.flush()
