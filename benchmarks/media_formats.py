"""What the media store costs in one form or another: bytes, time, and the change to the embeddings.

Usage: media_formats.py [CLIP ...]. CLIP is a file below the folder that MOODFUSE_CLIPS names; without any,
six of them are taken. Each is decoded as `moodfuse extract` does it, and its frames and sound are put into a
file of the cache in every form. Time is that of the faster of two passes: writing without the disk, reading
with the check of every byte. Weights are random, from a fixed seed; twodmcnn has the tagger's where
MOODFUSE_WEIGHTS names their folder.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import h5py
import numpy as np
import torch
from PIL import Image

from moodfuse.cache.digests import content_digest
from moodfuse.cache.media import Media, decode_frames, encode_frames
from moodfuse.cache.storage.parts import check_part, encode_part
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.media.decode import SHORT_SIDE_PX, make_media, read_clip
from moodfuse.extract.media_supply import render_media
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe, read_preprocessing

Arrays = dict[str, np.ndarray]
CLIPS = 6
RATE_HZ = 16_000


@dataclass(frozen=True)
class Form:
    """A way to store an array: to arrays of a part, and back. `packed` is stored by shuffle and deflate."""

    name: str
    to_arrays: Callable[[np.ndarray], Arrays]
    from_arrays: Callable[[Arrays], np.ndarray]
    packed: bool = False


def pillow(name: str, **options: object) -> Form:
    """Frames as picture files, by Pillow."""

    def to_arrays(frames: np.ndarray) -> Arrays:
        files = []
        for frame in frames:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, **options)  # type: ignore[arg-type]
            files.append(np.frombuffer(file.getvalue(), np.uint8))
        return {str(place): file for place, file in enumerate(files)}

    def from_arrays(arrays: Arrays) -> np.ndarray:
        files = (arrays[str(place)].tobytes() for place in range(len(arrays)))
        return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])

    return Form(name, to_arrays, from_arrays)


def stored_webp(size_hw: tuple[int, int]) -> Form:
    """Frames as the store has them."""
    return Form(
        "lossless WebP, as stored",
        lambda frames: dict(zip(("data", "ends"), encode_frames(frames), strict=True)),
        lambda arrays: decode_frames(arrays["data"], arrays["ends"], size_hw),
    )


def plain(name: str, *, packed: bool = False) -> Form:
    """An array as it is."""
    return Form(name, lambda array: {"x": array}, lambda arrays: arrays["x"], packed)


def frame_forms(size_hw: tuple[int, int]) -> list[Form]:
    """Every form of frames; the first is what the others are compared with."""
    return [
        plain("raw"),
        plain("HDF5 shuffle and deflate", packed=True),
        pillow("PNG, level 1", format="PNG", compress_level=1),
        pillow("PNG, level 6", format="PNG", compress_level=6),
        pillow("lossless WebP, method 0", format="WEBP", lossless=True, quality=0, method=0),
        pillow("lossless WebP, method 1", format="WEBP", lossless=True, quality=0, method=1),
        stored_webp(size_hw),
        pillow("JPEG 95, 4:4:4", format="JPEG", quality=95, subsampling=0),
        pillow("JPEG 95, 4:2:0", format="JPEG", quality=95, subsampling=2),
    ]


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """The sound at 16 bits."""
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)


def to_flac(waveform: np.ndarray) -> Arrays:
    """The sound at 16 bits as a FLAC file."""
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as output:
        stream = output.add_stream("flac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(to_int16(waveform)[None], format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        for part in (frame, None):
            output.mux(stream.encode(part))
    return {"x": np.frombuffer(file.getvalue(), np.uint8)}


def from_flac(arrays: Arrays) -> np.ndarray:
    """The sound of a FLAC file."""
    with av.open(io.BytesIO(arrays["x"].tobytes())) as media:
        parts = [frame.to_ndarray()[0] for frame in media.decode(audio=0)]
    return (np.concatenate(parts) / np.float32(32768)).astype(np.float32)


SOUND_FORMS = (
    plain("float32, raw"),
    plain("float32, shuffle and deflate (as stored)", packed=True),
    Form(
        "int16, raw", lambda x: {"x": to_int16(x)}, lambda a: (a["x"] / np.float32(32768)).astype(np.float32)
    ),
    Form("int16, FLAC", to_flac, from_flac),
)


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds of one array in one form, and what came back."""

    size: int
    write_s: float
    read_s: float
    back: np.ndarray


def cost(form: Form, array: np.ndarray, folder: Path) -> Cost:
    """Store an array and read it back; the faster of two passes counts."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        arrays = form.to_arrays(array)
        digest = content_digest(arrays, {})
        data = encode_part(arrays, {}, digest=digest, packed=tuple(arrays) if form.packed else ())
        path = folder / f"part-{digest[:16]}.h5"
        write_s = time.perf_counter() - start
        path.write_bytes(data)
        start = time.perf_counter()
        check_part(path, again=True)
        with h5py.File(path, "r") as file:
            back = form.from_arrays({name: file[name][()] for name in file})
        times.append((write_s, time.perf_counter() - start))
    write_s, read_s = (min(column) for column in zip(*times, strict=True))
    return Cost(path.stat().st_size, write_s, read_s, back)


def table(
    title: str, forms: Sequence[Sequence[Form]], arrays: Sequence[np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Print what each form costs; what came back of the inexact ones."""
    print(f"\n| {title} | MB a clip | of raw | write, ms | x raw | read, ms | x raw | exact |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    inexact, raw = {}, None
    for number, name in enumerate(form.name for form in forms[0]):
        with tempfile.TemporaryDirectory() as folder:
            found = [cost(row[number], array, Path(folder)) for row, array in zip(forms, arrays, strict=True)]
        size, write_s, read_s = (
            float(np.mean([getattr(item, key) for item in found])) for key in ("size", "write_s", "read_s")
        )
        raw = raw or (size, write_s, read_s)
        exact = all(np.array_equal(item.back, array) for item, array in zip(found, arrays, strict=True))
        if not exact:
            inexact[name] = [item.back for item in found]
        print(
            f"| {name} | {size / 1e6:.2f} | {size / raw[0]:.3f} | {write_s * 1e3:.0f} | "
            f"{write_s / raw[1]:.1f} | "
            f"{read_s * 1e3:.0f} | {read_s / raw[2]:.1f} | {'yes' if exact else 'no'} |",
            flush=True,
        )
    return inexact


def changes(sources: Sequence[str], clips: Sequence[Media], changed: dict[str, list[Media]]) -> None:
    """Print how far the embeddings of each form are from those of what was decoded."""
    print("\n| source | form | relative L2, median | max | 1 - cosine, median | max | error, median | max |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for source in sources:
        embed = embedder(source)
        exact = [embed(clip) for clip in clips]
        for name, others in changed.items():
            rows = np.array([distances(embed(other), row) for other, row in zip(others, exact, strict=True)])
            cells = [f"{value:.2g}" for column in rows.T for value in (np.median(column), column.max())]
            print(f"| `{source}` | {name} | {' | '.join(cells)} |", flush=True)


def embedder(source: str) -> Callable[[Media], np.ndarray]:
    """The frozen embedding of a clip, as `extract` computes it."""
    folder = Path(os.environ.get("MOODFUSE_WEIGHTS", ""))
    files = (
        sorted(folder.glob("*.hdf5")) if source == "twodmcnn" and os.environ.get("MOODFUSE_WEIGHTS") else []
    )
    weights = {source: str(files[0])} if files else {}
    choice = RecipeChoice(depth="frozen", weights=weights, device="cpu")
    recipe = build_recipe(source, choice)
    worker = SourceWorker(recipe, make_network(recipe, choice.weights_of(source), 2))

    def embed(media: Media) -> np.ndarray:
        return worker.frozen_rows(media)["embedding"].astype(np.float64)

    return embed


def distances(found: np.ndarray, expected: np.ndarray) -> tuple[float, float, float]:
    """Relative L2; 1 - cosine; the largest difference over the largest value, as in `docs/networks.md`."""
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected)), float(1 - cosine), float(error)


def main(files: Sequence[Path]) -> int:
    """Print the tables."""
    torch.set_num_threads(2)
    start = time.perf_counter()
    clips = [make_media(read_clip(file, short_side_px=SHORT_SIDE_PX)) for file in files]
    print(f"{len(clips)} clips, decoded in {(time.perf_counter() - start) / len(clips) * 1e3:.0f} ms a clip")
    frames = [clip.frames for clip in clips]
    changed = table("frames as decoded", [frame_forms(item.shape[1:3]) for item in frames], frames)
    pictures = {
        name: [replace(clip, frames=item) for clip, item in zip(clips, back, strict=True)]
        for name, back in changed.items()
    }
    c3d = read_preprocessing(build_recipe("c3d", RecipeChoice(device="cpu")))
    small = [render_media(clip, c3d).frames for clip in clips]
    table("frames resized for c3d", [[plain("raw"), stored_webp(item.shape[1:3])] for item in small], small)
    waveforms = [clip.waveform for clip in clips]
    changed = table("sound", [SOUND_FORMS] * len(clips), waveforms)
    sounds = {
        name: [replace(clip, waveform=item) for clip, item in zip(clips, back, strict=True)]
        for name, back in changed.items()
    }
    changes(("c3d", "i3d"), clips, pictures)
    changes(("onedmcnn", "twodmcnn"), clips, sounds)
    return 0


def chosen(names: Sequence[str]) -> list[Path]:
    """The clips to measure on; none where the environment names no folder of clips."""
    home = os.environ.get("MOODFUSE_CLIPS")
    if not home:
        return []
    if names:
        return [Path(home) / name for name in names]
    files = sorted(Path(home).rglob("*.mp4"))
    return files[:: max(1, len(files) // CLIPS)][:CLIPS]


if __name__ == "__main__":
    found = chosen(sys.argv[1:])
    if not found:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    sys.exit(main(found))
