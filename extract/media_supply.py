"""Where sources get their clips from: here the store in the cache; `moodfuse.extract.streaming` does without it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from moodfuse.cache.media import MediaStore
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset.ingest import Decoding, decode_again, examine
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.media.renditions import (
    media_of,
    preprocessing_of,
    rendered,
    renditions_to_keep,
    store_for,
)
from moodfuse.extract.pending import Work, needing_media


class MediaSupply(Protocol):
    """What stage one asks of whoever decodes its clips."""

    @property
    def embedded(self) -> int:
        """Clips that were passed through a trunk on the way, counted once a network."""

    def examine(self, clips: Sequence[Clip]) -> list[ClipStatus]:
        """Status of every clip; see `moodfuse.extract.dataset.ingest.examine`."""

    def supply(self, todo: Sequence[Work]) -> Sequence[Work]:
        """See to it that what is to be done finds its media; returns what is still to be done."""

    def store(self, recipe: Recipe) -> MediaStore:
        """Where a source's clips are read."""


def source_media(cache: FeatureCache, recipe: Recipe) -> MediaStore:
    """Where the cache keeps the clips of a source."""
    return store_for(media_home(cache), preprocessing_of(recipe))


def media_home(cache: FeatureCache) -> Path:
    """The folder of all that is kept of clips."""
    return cache.path / "media"


class KeptMedia:
    """Clips are decoded into the cache, in the renditions that the chosen sources read.

    Parameters
    ----------
    cache : FeatureCache
    recipes : iterable of Recipe
        Of the chosen sources.
    decoding : Decoding
        How clips are decoded; whom for is decided here.
    """

    embedded = 0
    """No clip passes a trunk while it is decoded."""

    def __init__(self, cache: FeatureCache, recipes: Iterable[Recipe], decoding: Decoding) -> None:
        self.cache, self.decoding = cache, replace(decoding, take=self._keep)
        self._kept = renditions_to_keep(preprocessing_of(recipe) for recipe in recipes)

    def examine(self, clips: Sequence[Clip]) -> list[ClipStatus]:
        """Status of every clip; what is not known yet is decoded and kept."""
        return examine(self.cache, clips, self.decoding)

    def supply(self, todo: Sequence[Work]) -> Sequence[Work]:
        """Decode again what features are wanted of and the store no longer holds, or not at this size."""
        readers: dict[str, list[MediaStore]] = {}
        clips: dict[str, Clip] = {}
        for item in todo:
            store = source_media(self.cache, item.recipe)
            for status in needing_media(self.cache, [item]):
                if store.find(status.digest) is None:
                    readers.setdefault(status.digest, []).append(store)
                    clips[status.digest] = status.clip

        def lacking(digest: str) -> bool:
            return any(store.find(digest) is None for store in readers[digest])

        decode_again(self.cache, clips, self.decoding, lacking=lacking)
        return todo

    def store(self, recipe: Recipe) -> MediaStore:
        """Where a source's clips are read."""
        return source_media(self.cache, recipe)

    def _keep(self, digest: str, clip: Clip, decoded: DecodedClip) -> None:
        media = media_of(decoded)
        for rendition, preprocessing in self._kept.items():
            if rendition.view != decoded.missing:
                store = MediaStore(media_home(self.cache), rendition)
                if store.find(digest) is None:
                    store.write(digest, rendered(media, preprocessing))
