"""A model at work: files in, predictions out. Only its networks load torch, and nothing here loads LightGBM."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.fuse.inference import Fusion, NetworkSays
from moodfuse.model.card import ModelCard, ModelError
from moodfuse.model.folder import check_files, read_card, read_fusion
from moodfuse.model.predictions import Floats, Prediction, Refusal, SourceSays, Timeline
from moodfuse.model.refusing import NO_NUMBERS, answer_of, refusal_of

if TYPE_CHECKING:
    from moodfuse.cache.media import Media
    from moodfuse.extract.decoding import DecodedClip, Limits, MediaError, ReadingRules
    from moodfuse.extract.inference import ShippedSource

log = logging.getLogger(__name__)
HOP_S = 5.0
_PASSES = threading.Lock()
"""Held while a clip passes networks: the number of threads, which decides their bits, is one for the process."""


@dataclass(frozen=True)
class Ask:
    """A file to label, and the window of it; without `end_s`, 30 s or up to its end."""

    file: str
    start_s: float = 0.0
    end_s: float | None = None


class Model:
    """A model folder, ready to label files.

    Thread-safe once loaded: networks are passed by one thread at a time, everything else is read only. Files are
    decoded in worker processes that are spawned, so a script that labels files does so under
    ``if __name__ == "__main__":``.

    Parameters
    ----------
    folder : Path
    card : ModelCard
    fusion : Fusion
    sources : sequence of ShippedSource
        In the order of the card.
    limits : Limits, optional
        What decoding a file may cost, unless a call says otherwise.

    Examples
    --------
    >>> model = Model.load("model")                              # doctest: +SKIP
    >>> model.predict(["song.mp4"]), model.predict_proba(["song.mp4"]).shape    # doctest: +SKIP
    (array(['sad'], dtype='<U10'), (1, 6))
    """

    def __init__(
        self,
        folder: Path,
        card: ModelCard,
        fusion: Fusion,
        sources: Sequence["ShippedSource"],
        limits: "Limits | None" = None,
    ) -> None:
        self.folder, self.card, self.fusion, self.limits = folder, card, fusion, limits
        self._sources = tuple(sources)

    @classmethod
    def load(
        cls, folder: str | PathLike[str], *, device: str | None = None, limits: "Limits | None" = None
    ) -> "Model":
        """Read a model folder, after checking every byte of it.

        Parameters
        ----------
        folder : str or path-like
        device : str, optional
            Where its networks work: ``cpu``, ``cuda`` or ``auto``; where each was made, if not given. On another one
            probabilities differ in their last digits.
        limits : Limits, optional
            What decoding a file may cost, unless a call says otherwise.

        Raises
        ------
        ModelError
            If it is damaged, incomplete, or no model, or the device is not there; the message names the file.
        """
        path = Path(folder)
        card = read_card(path)
        check_files(path, card)
        fusion = read_fusion(path, card)
        from moodfuse.extract.decoding import MEDIA_RULES
        from moodfuse.extract.inference import ShippedSource

        if card.decoder != MEDIA_RULES:
            log.warning(
                "%s: its training clips were read by %s, files are read by %s here; numbers may differ in their last "
                "digits",
                path,
                card.decoder,
                MEDIA_RULES,
            )
        sources = []
        for item in card.sources:
            body = None if item.body is None else path / item.body
            try:
                networks = [path / place for place in item.networks]
                sources.append(ShippedSource(item.recipe, len(card.classes), body, networks, device=device))
            except MoodfuseError as error:
                raise ModelError(f"{path}: {error}") from error
        return cls(path, card, fusion, sources, limits)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.card.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; the class axis."""
        return self.card.classes

    def predict(self, paths: Iterable[str | PathLike[str]], *, jobs: int = 1) -> NDArray[np.str_]:
        """The most probable label of each file, [N]. Raises `MediaError` for the first that cannot be labelled."""
        return np.array([item.label for item in self._all(paths, jobs)])

    def predict_proba(self, paths: Iterable[str | PathLike[str]], *, jobs: int = 1) -> Floats:
        """Calibrated probabilities of files, [N, C]; classes in the order of `classes`.

        Raises
        ------
        MediaError
            For the first file that cannot be labelled.
        """
        found = [item.probabilities for item in self._all(paths, jobs)]
        return np.stack(found) if found else np.zeros((0, len(self.classes)))

    def _all(self, paths: Iterable[str | PathLike[str]], jobs: int) -> Iterator[Prediction]:
        for found in self.label((Ask(fspath(path)) for path in paths), jobs=jobs, explain=False):
            yield answer_of(found)

    def label_file(
        self, path: str | PathLike[str], *, start_s: float = 0.0, end_s: float | None = None
    ) -> Prediction:
        """What the model says of one window of a file.

        Raises
        ------
        MediaError
            If it cannot be labelled.
        """
        for found in self.label([Ask(fspath(path), start_s, end_s)], jobs=1):
            return answer_of(found)
        raise MoodfuseError(f"{path}: nothing was said of it")

    def label(
        self,
        asks: Iterable[Ask],
        *,
        jobs: int = 1,
        explain: bool = True,
        look: "Callable[[int, DecodedClip], object] | None" = None,
        rules: "ReadingRules | None" = None,
    ) -> Iterator[Prediction | Refusal]:
        """What the model says of files, one by one in their order; they are decoded ahead in worker processes.

        Parameters
        ----------
        asks : iterable of Ask
            Taken lazily.
        jobs : int
            Decoding processes; they change no result.
        explain : bool
            Whether to say what each source says, and what the answer would be without it.
        look : callable, optional
            Given the number and the decoded clip of each file that could be decoded, before the model says anything.
        rules : ReadingRules, optional
            What each file may cost, and which are taken.
        """
        from moodfuse.extract.decoding import (
            SHORT_SIDE_PX,
            DecodedClip,
            DecodeRequest,
            Limits,
            ReadingRules,
            decode_many,
        )

        rules = rules or ReadingRules(self.limits or Limits())
        waiting: list[Ask] = []

        def requests() -> Iterator[DecodeRequest]:
            for ask in asks:
                waiting.append(ask)
                yield DecodeRequest(
                    Path(ask.file),
                    ask.start_s,
                    ask.end_s,
                    SHORT_SIDE_PX,
                    one_view=self._one_view,
                    allow_partial=rules.allow_partial,
                )

        for number, (_, result) in enumerate(decode_many(requests(), jobs=jobs, limits=rules.limits)):
            ask = waiting.pop(0)
            if isinstance(result, DecodedClip):
                result = self._missing_error(ask.file, result) or result
            if not isinstance(result, DecodedClip):
                yield refusal_of(ask.file, result)
                continue
            if look is not None:
                look(number, result)
            try:
                yield self.label_clip(ask.file, result, explain=explain)
            except InputError as error:  # this clip's numbers are none; the next one's may be
                yield Refusal(ask.file, NO_NUMBERS, str(error))

    def label_clip(self, file: str, clip: "DecodedClip", *, explain: bool = True) -> Prediction:
        """What the model says of a clip that was decoded as `moodfuse.extract.media.renditions.SHORT_SIDE_PX` says."""
        from moodfuse.extract.decoding import media_of

        missing = clip.missing if clip.missing in self.card.views else ""
        says = self._says(media_of(clip), missing)
        values = [
            None if item is None else self.fusion.values(number, item) for number, item in enumerate(says)
        ]
        sources: tuple[SourceSays, ...] = ()
        if explain:
            sources = tuple(
                SourceSays(
                    self.fusion.sources[number].source,
                    None if item is None else self.fusion.own(number, item),
                    self.fusion.without(number, values),
                )
                for number, item in enumerate(says)
            )
        probabilities = self.fusion.probabilities(values)
        return Prediction(
            file,
            self.classes,
            probabilities,
            clip.start_s,
            clip.end_s,
            missing,
            sources,
            partial=clip.partial,
            duration_s=clip.facts.duration_s,
        )

    @property
    def _one_view(self) -> bool:
        """Whether a file is read although it has no audio, or no video."""
        return self.card.impute or len(self.card.views) == 1

    def _missing_error(self, file: str, clip: "DecodedClip") -> "MediaError | None":
        """The error for a clip without a stream that the model reads; `None` if it has all or the model imputes."""
        from moodfuse.extract.decoding import MediaError

        if self.card.impute or clip.missing not in self.card.views:
            return None
        code = "no_audio" if clip.missing == "sound" else "no_video"
        return MediaError(code, file, "" if _has_track(clip) else f"the file has no {clip.missing} track")

    def _says(self, media: "Media", missing: str) -> list[list[NetworkSays] | None]:
        """What each source's networks say; `None` where the clip lacks what the source reads."""
        found: list[list[NetworkSays] | None] = []
        with _PASSES:
            for source in self._sources:
                if source.recipe.view == missing:
                    found.append(None)
                else:
                    rows = source.embed(media)
                    found.append([NetworkSays(row["embedding"], row.get("logits")) for row in rows])
        return found

    def timeline(
        self, path: str | PathLike[str], *, hop_s: float = HOP_S, limits: "Limits | None" = None
    ) -> Timeline:
        """What the model says of a file over time: a window of 30 s, moved by `hop_s` seconds at a time.

        The file is decoded once. A window that cannot be read leaves a gap.

        Parameters
        ----------
        path : str or path-like
        hop_s : float
        limits : Limits, optional
            What each window may cost.

        Raises
        ------
        MediaError
            If the file cannot be opened at all.
        """
        from moodfuse.extract.decoding import SHORT_SIDE_PX, DecodedClip, WindowRequest, read_windows_apart

        file = fspath(path)
        times: list[tuple[float, float]] = []
        rows: list[Floats] = []
        refusals: list[tuple[int, Refusal]] = []
        duration_s, missing = 0.0, ""
        wish = WindowRequest(Path(path), hop_s, SHORT_SIDE_PX, one_view=self._one_view)
        windows = read_windows_apart(wish, limits=limits or self.limits)
        for window, result in windows:
            times.append((window.start_s, window.end_s))
            if isinstance(result, DecodedClip):
                error = self._missing_error(file, result)
                if error is not None and not _has_track(result):
                    raise error  # no window of the file has what the model reads
                result = error or result
            if isinstance(result, DecodedClip):
                found = self.label_clip(file, result, explain=False)
                rows.append(found.probabilities)
                duration_s, missing = result.facts.duration_s, missing or found.missing
            else:
                refusals.append((window.number, refusal_of(file, result)))
                rows.append(np.full(len(self.classes), np.nan))
        starts_s, ends_s = np.array(times, dtype=np.float64).reshape(-1, 2).T
        duration_s = duration_s or float(ends_s.max(initial=0.0))
        table = np.stack(rows) if rows else np.zeros((0, len(self.classes)))
        return Timeline(file, self.classes, starts_s, ends_s, table, tuple(refusals), duration_s, missing)


def _has_track(clip: "DecodedClip") -> bool:
    """Whether the file has the stream that is missing in a clip, so that it is missing in its window only."""
    return bool(clip.facts.audio_codec if clip.missing == "sound" else clip.facts.video_codec)
