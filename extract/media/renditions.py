"""Which renditions of a clip are kept: for each network, the smallest form from which its input can be made.

Every clip is decoded at one size. A network that reads frames of that size needs them as decoded; for one
that reads smaller frames, its own resizing is done before they are stored. So its input has the same bits
whichever other sources are chosen, and whether frames are stored as decoded, stored smaller or not stored at
all.
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
# These names and rules are part of the cache's format.
WAVEFORM = Rendition("sound", f"{DECODER}, sound; float32")
DECODED_FRAMES = Rendition("picture", f"{MEDIA_RULES}, picture; {CODING}")


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return how the inputs of a recipe's network are made."""
    return preprocessing_from_record(json.loads(recipe.preprocessing))


def rendition_for(preprocessing: Preprocessing) -> Rendition:
    """Return the smallest rendition from which a network's input can be made."""
    if not isinstance(preprocessing, VideoPreprocessing):
        return WAVEFORM
    short_side_px = preprocessing.resize_short_side_px or min(
        preprocessing.resize_hw or (preprocessing.crop_px,)
    )
    if short_side_px >= SHORT_SIDE_PX:
        return DECODED_FRAMES
    if preprocessing.resize_hw is not None:
        size = "{}x{} px".format(*preprocessing.resize_hw)
    else:
        size = f"short side {preprocessing.resize_short_side_px} px"
    how = "antialiased" if preprocessing.antialias else "not antialiased"
    rules = f"{MEDIA_RULES}, picture; where that is smaller resized to {size}, {how}; {CODING}"
    return Rendition("picture", rules)


def renditions_to_keep(preprocessings: Iterable[Preprocessing]) -> dict[Rendition, Preprocessing]:
    """Return what to store for the networks of all sources, each with a network that it is made for.

    Frames as decoded serve all video networks.
    """
    chosen = {rendition_for(preprocessing): preprocessing for preprocessing in preprocessings}
    if DECODED_FRAMES not in chosen:
        return chosen
    return {rendition: chosen[rendition] for rendition in chosen if rendition in (DECODED_FRAMES, WAVEFORM)}


def store_for(home: Path, preprocessing: Preprocessing) -> MediaStore:
    """Return the store of a network's clips in ``<cache>/media``: in its own rendition, or as decoded."""
    own = rendition_for(preprocessing)
    if own in (WAVEFORM, DECODED_FRAMES):
        return MediaStore(home, own)
    return MediaStore(home, own, DECODED_FRAMES)


def media_of(decoded: DecodedClip) -> Media:
    """Return all that was decoded of a clip."""
    return Media(decoded.frames, decoded.frame_times_s, decoded.waveform, decoded.waveform_samples)


def rendered(media: Media, preprocessing: Preprocessing) -> Media:
    """Return a decoded clip in the rendition for a network; frames are never enlarged."""
    if not isinstance(preprocessing, VideoPreprocessing):
        return replace(media, frames=media.frames[:0], frame_times_s=media.frame_times_s[:0])
    media = replace(media, waveform=media.waveform[:0], waveform_samples=0)
    if rendition_for(preprocessing) == DECODED_FRAMES or not len(media.frames):
        return media
    from moodfuse.extract.media.preprocess import resized_frames, resized_hw  # imports torch

    height, width = media.frames.shape[1:3]
    if np.prod(resized_hw(height, width, preprocessing)) >= height * width:
        return media
    small = resized_frames(media.frames, preprocessing).permute(0, 2, 3, 1).contiguous().numpy()
    return replace(media, frames=small, shape_hw=(height, width))
