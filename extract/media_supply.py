"""Decode the clips of a run: into the cache, or past it, through the networks while each clip is in memory.

With kept media, clips are stored in the renditions that the chosen sources read. Without, each clip is
decoded once and passes the frozen trunks of all sources. Only the audio for networks that are tuned whole,
which read every clip in every epoch, is kept in a temporary folder until the run ends; video networks cannot
be tuned whole in this way.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.media import CODING, Media, MediaStore, Rendition
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.store import CLIPS_PER_PART, FeatureCache
from moodfuse.extract.dataset.ingest import DecodeSettings, decode_again, decode_dataset
from moodfuse.extract.media.decode import DECODER, MEDIA_RULES, SHORT_SIDE_PX, DecodedClip, make_media
from moodfuse.extract.networks import Preprocessing, VideoPreprocessing
from moodfuse.extract.pending import BlockWriter, Work, find_clips_to_decode
from moodfuse.extract.recipe_files import find_extra_media, read_preprocessing
from moodfuse.extract.runtime import release_freed_memory
from moodfuse.extract.settings import ExtractSettings

if TYPE_CHECKING:  # importing torch takes seconds
    from moodfuse.extract.inference import SourceWorker

# These names and rules are part of the cache's format.
WAVEFORM = Rendition("sound", f"{DECODER}, sound; float32")  # at 16 kHz
DECODED_FRAMES = Rendition("picture", f"{MEDIA_RULES}, picture; {CODING}")


@contextmanager
def media_supply(
    cache: FeatureCache, recipes: Sequence[Recipe], settings: ExtractSettings
) -> Iterator["KeptMedia | StreamedMedia"]:
    """Decode into the cache, or past it if `settings.keep_media` is false."""
    if settings.keep_media:
        yield KeptMedia(
            cache, recipes, DecodeSettings(settings.jobs, impute=settings.impute, rules=settings.rules)
        )
        return
    for recipe in recipes:
        if recipe.tunes_trunk and recipe.modality == "picture":
            raise InputError(
                f"{recipe.source}: at depth {recipe.depth}, a video network reads every clip's frames in "
                f"every epoch, which --no-keep-media does not keep; drop --no-keep-media, "
                f"or use --tune {recipe.source}=head"
            )
    with tempfile.TemporaryDirectory(prefix="moodfuse-") as folder:
        yield StreamedMedia(cache, recipes, settings, Path(folder))


def choose_rendition(preprocessing: Preprocessing) -> Rendition:
    """Return the smallest rendition from which a network's input can be made."""
    if not isinstance(preprocessing, VideoPreprocessing):
        rate_hz = preprocessing.sample_rate_hz
        if rate_hz == WAVEFORM.sample_rate_hz:
            return WAVEFORM
        return Rendition("sound", f"{DECODER}, sound at {rate_hz} Hz; float32", rate_hz)
    windows = preprocessing.frame_windows
    picture = f"{MEDIA_RULES}, picture" if windows is None else f"{MEDIA_RULES}, picture; {windows}"
    if not _reads_smaller_frames(preprocessing):
        return Rendition("picture", f"{picture}; {CODING}", windows=windows)
    if preprocessing.resize_hw is not None:
        size = "{}x{} px".format(*preprocessing.resize_hw)
    else:
        size = f"short side {preprocessing.resize_short_side_px} px"
    how = "antialiased" if preprocessing.antialias else "not antialiased"
    rules = f"{picture}; where that is smaller resized to {size}, {how}; {CODING}"
    return Rendition("picture", rules, windows=windows)


def _reads_smaller_frames(preprocessing: VideoPreprocessing) -> bool:
    """Whether a network resizes frames to a shorter side than they are decoded at."""
    resize_hw = preprocessing.resize_hw or (preprocessing.crop_px,)
    return (preprocessing.resize_short_side_px or min(resize_hw)) < SHORT_SIDE_PX


def choose_renditions(preprocessings: Iterable[Preprocessing]) -> dict[Rendition, Preprocessing]:
    """Return what to store for the networks of all sources, each with a network that it is made for.

    Frames as decoded serve all video networks that read them at even times.
    """
    chosen = {choose_rendition(preprocessing): preprocessing for preprocessing in preprocessings}
    if DECODED_FRAMES not in chosen:
        return chosen
    return {
        rendition: preprocessing
        for rendition, preprocessing in chosen.items()
        if rendition == DECODED_FRAMES or rendition.modality == "sound" or rendition.windows
    }


def find_store(home: Path, preprocessing: Preprocessing) -> MediaStore:
    """Return the store of a network's clips in ``<cache>/media``: in its own rendition, or as decoded."""
    own = choose_rendition(preprocessing)
    if own == DECODED_FRAMES or own.modality == "sound" or own.windows:
        return MediaStore(home, own)
    return MediaStore(home, own, DECODED_FRAMES)


def render_media(media: Media, preprocessing: Preprocessing) -> Media:
    """Return a decoded clip in the rendition for a network; frames are never enlarged."""
    if not isinstance(preprocessing, VideoPreprocessing):
        return replace(media, frames=media.frames[:0], frame_times_s=media.frame_times_s[:0], other_frames={})
    windows = preprocessing.frame_windows
    frames, times_s = media.frames_in(windows)
    height, width = frames.shape[1:3]
    if _reads_smaller_frames(preprocessing) and len(frames):
        from moodfuse.extract.media.preprocess import resized_frames, resized_hw  # imports torch

        if np.prod(resized_hw(height, width, preprocessing)) < height * width:
            frames = resized_frames(frames, preprocessing).permute(0, 2, 3, 1).contiguous().numpy()
    media = Media(frames, times_s, np.zeros(0, np.float32), 0, (height, width))
    if windows is None:
        return media
    others = {windows: (frames, times_s)}
    return replace(media, frames=frames[:0], frame_times_s=times_s[:0], other_frames=others)


def open_source_media(cache: FeatureCache, recipe: Recipe) -> MediaStore:
    """Where the cache keeps the media that a source reads."""
    return find_store(cache.path / "media", read_preprocessing(recipe))


class KeptMedia:
    """Decodes clips into the cache, in the renditions that the chosen sources read."""

    embedded = 0

    def __init__(self, cache: FeatureCache, recipes: Sequence[Recipe], decoding: DecodeSettings) -> None:
        self.cache = cache
        self.decoding = replace(decoding, on_decoded=self._keep, extra=find_extra_media(recipes))
        kept = choose_renditions(read_preprocessing(recipe) for recipe in recipes)
        folder = cache.path / "media"
        self._kept = [(MediaStore(folder, rendition), wanted) for rendition, wanted in kept.items()]
        self._stored: set[str] = set()  # clips of this run

    def decode_dataset(self, clips: Sequence[Clip]) -> list[ClipStatus]:
        """Status of every clip; clips that the cache does not know are decoded and stored."""
        return decode_dataset(self.cache, clips, self.decoding)

    def supply(self, todo: Sequence[Work]) -> Sequence[Work]:
        """Decode again what the store no longer holds, or not at the size that a source reads."""
        stores: dict[str, list[MediaStore]] = {}
        clips: dict[str, Clip] = {}
        for work in todo:
            store = open_source_media(self.cache, work.recipe)
            for status in find_clips_to_decode(self.cache, [work]):
                if status.digest not in self._stored and store.find(status.digest) is None:
                    stores.setdefault(status.digest, []).append(store)
                    clips[status.digest] = status.clip

        def needed(digests: Sequence[str]) -> Iterator[str]:
            for digest in digests:
                if any(store.find(digest) is None for store in stores[digest]):
                    yield digest

        decode_again(self.cache, clips, self.decoding, needed=needed)
        return todo

    def store(self, recipe: Recipe) -> MediaStore:
        """Where the clips of a source are read."""
        return open_source_media(self.cache, recipe)

    def _keep(self, digest: str, clip: Clip, decoded: DecodedClip) -> None:
        media = make_media(decoded)
        for store, preprocessing in self._kept:
            if store.own.modality != decoded.missing:
                store.write(digest, render_media(media, preprocessing))
        self._stored.add(digest)


class FrozenTrunk:
    """The frozen trunk of a source, applied to clips in memory."""

    def __init__(self, cache: FeatureCache, recipe: Recipe, weights: str | None) -> None:
        self.recipe, self.weights = recipe, weights
        self.writer = BlockWriter(cache, recipe, None)
        self._worker: SourceWorker | None = None

    def add(self, digest: str, media: Media) -> None:
        """Pass a clip through the trunk."""
        if self._worker is None:
            from moodfuse.extract.inference import SourceWorker, make_network

            self._worker = SourceWorker(self.recipe, make_network(self.recipe, self.weights, num_classes=2))
            self.writer.cache.write_recipe(self.recipe)
        self.writer.add(digest, self._worker.frozen_rows(media))


class StreamedMedia:
    """Decodes clips past the cache, through the frozen trunks of all sources.

    Under `strict` and `dry_run` no feature may be written before every clip was validated, so there the clips
    are decoded twice: once to validate them, and once for the trunks.
    """

    def __init__(
        self,
        cache: FeatureCache,
        recipes: Sequence[Recipe],
        settings: ExtractSettings,
        folder: Path,
    ) -> None:
        self.cache, self.settings, self.folder = cache, settings, folder
        self._decoding = DecodeSettings(
            settings.jobs,
            settings.impute,
            settings.rules,
            on_decoded=self._on_decoded,
            chunk=CLIPS_PER_PART,
            extra=find_extra_media(recipes),
        )
        self._trunks: dict[tuple[str, str], FrozenTrunk] = {}
        tuned_trunks = [read_preprocessing(recipe) for recipe in recipes if recipe.tunes_trunk]
        self._kept = [
            (MediaStore(folder, rendition), preprocessing)
            for rendition, preprocessing in choose_renditions(tuned_trunks).items()
        ]
        self._keeps_audio: Callable[[str], bool] = lambda digest: True
        for recipe in recipes:
            if not recipe.tunes_trunk:
                frozen = frozen_counterpart(recipe)
                weights = settings.recipes.weights_of(recipe.source)
                self._trunks.setdefault((frozen.source, frozen.digest16), FrozenTrunk(cache, frozen, weights))

    @property
    def embedded(self) -> int:
        """Clips that passed a trunk, counted once per network."""
        return sum(trunk.writer.added for trunk in self._trunks.values())

    def store(self, recipe: Recipe) -> MediaStore:
        """Where a network whose trunk is tuned reads its clips."""
        return find_store(self.folder, read_preprocessing(recipe))

    def decode_dataset(self, clips: Sequence[Clip]) -> list[ClipStatus]:
        """Status of every clip; clips that the cache does not know are decoded and pass the trunks."""
        too_early = self.settings.strict or self.settings.dry_run
        decoding = replace(self._decoding, on_decoded=None) if too_early else self._decoding
        statuses = decode_dataset(self.cache, clips, decoding)
        self._flush()
        return statuses

    def supply(self, todo: Sequence[Work]) -> Sequence[Work]:
        """Decode clips that have to pass a trunk, or whose audio is needed; tuning is left to do."""
        trunks: dict[str, list[FrozenTrunk]] = {}
        audio: set[str] = set()
        clips: dict[str, Clip] = {}
        for work in todo:
            frozen = frozen_counterpart(work.recipe)
            for status in find_clips_to_decode(self.cache, [work]):
                if not work.recipe.tunes_trunk:
                    trunks.setdefault(status.digest, []).append(self._trunks[frozen.source, frozen.digest16])
                elif self.store(work.recipe).find(status.digest) is None:
                    audio.add(status.digest)
                else:
                    continue
                clips[status.digest] = status.clip

        def needed(digests: Sequence[str]) -> Iterator[str]:
            for digest in digests:
                if digest in audio or any(trunk.writer.needs(digest) for trunk in trunks.get(digest, ())):
                    yield digest

        self._keeps_audio = audio.__contains__
        decode_again(self.cache, clips, self._decoding, needed=needed)
        self._flush()
        return [replace(work, trunk=()) for work in todo]

    def _on_decoded(self, digest: str, clip: Clip, decoded: DecodedClip) -> None:
        if clip.split != "train":
            return
        media = make_media(decoded)
        for trunk in self._trunks.values():
            if trunk.recipe.modality != decoded.missing and trunk.writer.needs(digest):
                trunk.add(digest, media)
        if self._keeps_audio(digest) and decoded.missing != "sound":
            for store, preprocessing in self._kept:
                store.write(digest, render_media(media, preprocessing))

    def _flush(self) -> None:
        for trunk in self._trunks.values():
            trunk.writer.flush()
        release_freed_memory()
