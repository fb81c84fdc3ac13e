"""Which renditions of a clip are kept: for each network, what its input is made from, and no more.

Every clip is decoded at one size. A network that reads frames of that size needs them as decoded; for one that reads
smaller ones its own resizing is carried out before they are kept. So its input is the same bits whichever other
sources are chosen, and whether frames are kept as decoded, kept smaller or not kept at all.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from moodfuse.cache.media import CODING, Media, MediaStore, Rendition
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.media.decode import DECODER, DecodedClip
from moodfuse.extract.networks import Preprocessing, VideoPreprocessing, preprocessing_from_record

SHORT_SIDE_PX = 256
"""Short side of the frames of every clip as decoded."""
MEDIA_RULES = f"{DECODER}, short side {SHORT_SIDE_PX} px"
SOUND = Rendition("sound", f"{DECODER}, sound; float32")
PICTURE = Rendition("picture", f"{MEDIA_RULES}, picture; {CODING}")


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """How the inputs of a recipe's network are made."""
    return preprocessing_from_record(json.loads(recipe.preprocessing))


def rendition_for(preprocessing: Preprocessing) -> Rendition:
    """The smallest rendition from which a network's input can be made."""
    if not isinstance(preprocessing, VideoPreprocessing):
        return SOUND
    if _short_side(preprocessing) >= SHORT_SIDE_PX:
        return PICTURE
    if preprocessing.resize_hw is not None:
        size = "{}x{} px".format(*preprocessing.resize_hw)
    else:
        size = f"short side {preprocessing.resize_short_side_px} px"
    how = "antialiased" if preprocessing.antialias else "not antialiased"
    return Rendition(
        "picture", f"{MEDIA_RULES}, picture; where that is smaller resized to {size}, {how}; {CODING}"
    )


def _short_side(preprocessing: VideoPreprocessing) -> int:
    return preprocessing.resize_short_side_px or min(preprocessing.resize_hw or (preprocessing.crop_px,))


def renditions_to_keep(preprocessings: Iterable[Preprocessing]) -> dict[Rendition, Preprocessing]:
    """What is kept for some networks, each with one for which it is made; frames as decoded serve all video networks.

    Parameters
    ----------
    preprocessings : iterable of VideoPreprocessing or AudioPreprocessing
        Those of all chosen sources.
    """
    found = {rendition_for(item): item for item in preprocessings}
    if PICTURE not in found:
        return found
    return {rendition: item for rendition, item in found.items() if rendition in (PICTURE, SOUND)}


def store_for(home: Path, preprocessing: Preprocessing) -> MediaStore:
    """Where a network's clips are read: in the rendition for it, or as decoded.

    Parameters
    ----------
    home : Path
        ``<cache>/media``.
    preprocessing : VideoPreprocessing or AudioPreprocessing
    """
    own = rendition_for(preprocessing)
    return MediaStore(home, own) if own in (SOUND, PICTURE) else MediaStore(home, own, PICTURE)


def media_of(decoded: DecodedClip) -> Media:
    """What was decoded of a clip, whole."""
    return Media(decoded.frames, decoded.frame_times_s, decoded.waveform, decoded.waveform_samples)


def rendered(media: Media, preprocessing: Preprocessing) -> Media:
    """A clip, as decoded, in the rendition for a network; frames are never made larger."""
    if not isinstance(preprocessing, VideoPreprocessing):
        return replace(media, frames=media.frames[:0], frame_times_s=media.frame_times_s[:0])
    media = replace(media, waveform=media.waveform[:0], waveform_samples=0)
    if rendition_for(preprocessing) == PICTURE or not len(media.frames):
        return media
    from moodfuse.extract.media.preprocess import (  # imports torch, which not every store waits for
        resized_frames,
        resized_hw,
    )

    height, width = media.frames.shape[1:3]
    if np.prod(resized_hw(height, width, preprocessing)) >= height * width:
        return media
    small = resized_frames(media.frames, preprocessing).permute(0, 2, 3, 1).contiguous().numpy()
    return replace(media, frames=small, shape_hw=(height, width))
