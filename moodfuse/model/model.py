"""The exported model: files in, predictions out. Only its networks load torch; nothing loads LightGBM."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from html import escape
from itertools import tee
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.cache.recipe import MODALITY_NAMES
from moodfuse.extract.decoding import (
    MEDIA_RULES,
    SHORT_SIDE_PX,
    DecodedClip,
    DecodeRequest,
    Limits,
    MediaError,
    ReadingRules,
    WindowRequest,
    decode_many,
    make_media,
    read_windows_in_worker,
)
from moodfuse.extract.recipe_files import find_extra_media
from moodfuse.fuse.inference import Fusion, NetworkOutput
from moodfuse.model.folder import ModelCard, ModelError, check_files, read_card, read_fusion
from moodfuse.model.predictions import (
    Floats,
    LabelRequest,
    ModelId,
    Prediction,
    Refusal,
    SourceContribution,
    Timeline,
    make_refusal,
)

if TYPE_CHECKING:
    from moodfuse.extract.inference import ShippedSource

log = logging.getLogger(__name__)
OnError = Literal["raise", "return"]
NO_NUMBERS = "no_numbers"
"""Code of a refusal because the numbers of a network or of the head are not finite."""
_NETWORK_LOCK = threading.Lock()
"""torch has one thread count per process, and it decides the bits of the results."""


class Model:
    """An exported model that labels files.

    Thread-safe after loading. Files are decoded in spawned worker processes, so a script must use the model
    under ``if __name__ == "__main__":``.

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
        limits: Limits | None = None,
    ) -> None:
        self.folder, self.card, self.fusion, self.limits = folder, card, fusion, limits
        self._sources = tuple(sources)
        self._accepts_missing = card.impute or len(card.modalities) == 1
        self._extra = find_extra_media(source.recipe for source in sources)

    @classmethod
    def load(
        cls, folder: str | PathLike[str], *, device: str | None = None, limits: Limits | None = None
    ) -> "Model":
        """Read a model folder after verifying all of its files.

        Parameters
        ----------
        folder : str or path-like
        device : str, optional
            ``cpu``, ``cuda`` or ``auto``; by default each network runs where it was fine-tuned. On another
            device probabilities differ in their last digits.
        limits : Limits, optional
            Default limits for decoding a file.

        Raises
        ------
        ModelError
            If the folder is damaged or not a model, or the device is not available.
        """
        path = Path(folder)
        card = read_card(path)
        check_files(path, card)
        fusion = read_fusion(path, card)
        from moodfuse.extract.inference import ShippedSource  # imports torch

        if card.decoder != MEDIA_RULES:
            decoders = (
                f"was trained on clips decoded by {card.decoder}, files are decoded by {MEDIA_RULES} here"
            )
            log.warning("%s %s; probabilities may differ in their last digits", path, decoders)
        sources = []
        for source in card.sources:
            body = None if source.body is None else path / source.body
            networks = [path / name for name in source.networks]
            try:
                sources.append(ShippedSource(source.recipe, len(card.classes), body, networks, device=device))
            except MoodfuseError as error:
                raise ModelError(f"{path}: {error}") from error
        return cls(path, card, fusion, sources, limits)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.card.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; the class axis."""
        return self.card.classes

    @property
    def id(self) -> ModelId:
        """Name and digest of the model, as answers have them."""
        return ModelId(self.name, self.card.digest[:16])

    def __repr__(self) -> str:
        return f"Model({self.name!r}, sources={self._source_names()}, classes={list(self.classes)})"

    def _repr_html_(self) -> str:
        """Show the model as a table in a notebook."""
        expected = self.card.expected
        rows = {
            "labels": ", ".join(self.classes),
            "sources": ", ".join(self._source_names()),
            "head": f"{self.card.head}, on {self.card.level}",
            "files without audio or video": "labelled" if self._accepts_missing else "refused",
        }
        for name, title in (("accuracy", "accuracy"), ("macro_f1", "macro F1"), ("log_loss", "log loss")):
            if name in expected:
                low, high = expected[f"{name}_ci95"]
                rows[f"cross-validated {title}"] = f"{expected[name]:.3f} (95 % CI {low:.3f} to {high:.3f})"
        rows["folder"] = str(self.folder)
        cells = "".join(
            f'<tr><th scope="row">{escape(title)}</th><td>{escape(text)}</td></tr>'
            for title, text in rows.items()
        )
        caption = f"moodfuse model {escape(self.name)} ({self.id.digest})"
        return f"<table><caption>{caption}</caption><tbody>{cells}</tbody></table>"

    def _source_names(self) -> list[str]:
        return [source.recipe.source for source in self.card.sources]

    def predict(
        self, paths: Iterable[str | PathLike[str]], *, jobs: int = 1, on_error: OnError = "raise"
    ) -> NDArray[Any]:
        """Return the most probable label of each file, [N].

        Under ``on_error="return"`` the array is of objects, with `None` for files that cannot be labelled.
        Otherwise as `predict_proba`.
        """
        probabilities = self.predict_proba(paths, jobs=jobs, on_error=on_error)
        labels = np.array(self.classes)[probabilities.argmax(axis=1)]
        if on_error == "return":
            labels = labels.astype(object)
            labels[np.isnan(probabilities).any(axis=1)] = None
        return labels

    def predict_proba(
        self, paths: Iterable[str | PathLike[str]], *, jobs: int = 1, on_error: OnError = "raise"
    ) -> Floats:
        """Return calibrated probabilities of files, [N, C], with classes in the order of `classes`.

        Parameters
        ----------
        paths : iterable of str or path-like
        jobs : int
            Decoding processes.
        on_error : {"raise", "return"}
            Raise for the first file that cannot be labelled, or return NaN in the row of each, and log the
            reason as a warning. `label` returns the reasons.

        Raises
        ------
        MediaError
            For the first file that cannot be labelled.
        """
        if on_error not in ("raise", "return"):
            raise InputError(f"on_error is {on_error!r}, expected 'raise' or 'return'")
        rows = []
        for result in self.label(paths, jobs=jobs, explain=False):
            if on_error == "return" and isinstance(result, Refusal):
                log.warning("%s: %s", result.file, result.detail)
                rows.append(np.full(len(self.classes), np.nan))
            else:
                rows.append(_checked_prediction(result).probabilities)
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.classes))

    def label_file(
        self, path: str | PathLike[str], *, start_s: float = 0.0, end_s: float | None = None
    ) -> Prediction:
        """Label one window of a file, or raise MediaError."""
        (result,) = self.label([LabelRequest(fspath(path), start_s, end_s)])
        return _checked_prediction(result)

    def label(
        self,
        requests: Iterable[LabelRequest | str | PathLike[str]],
        *,
        jobs: int = 1,
        explain: bool = True,
        on_decoded: Callable[[int, DecodedClip], object] | None = None,
        rules: ReadingRules | None = None,
    ) -> Iterator[Prediction | Refusal]:
        """Label windows of files, in their order, while worker processes decode the next ones.

        Parameters
        ----------
        requests : iterable of LabelRequest, str or path-like
            Windows of files; a path alone is its first 30 s. Consumed lazily.
        jobs : int
            Decoding processes; they do not change the results.
        explain : bool
            Whether to compute `Prediction.sources`.
        on_decoded : callable, optional
            Called with the number and the decoded clip of each file that could be decoded.
        rules : ReadingRules, optional
            Limits for each file, and which files are accepted.
        """
        rules = rules or ReadingRules(self.limits or Limits())
        if isinstance(requests, (str, PathLike)):
            raise InputError(f"{fspath(requests)!r} is one path; expected a list of paths")
        requests, to_decode = tee(
            request if isinstance(request, LabelRequest) else LabelRequest(fspath(request))
            for request in requests
        )
        decoded = decode_many(
            (
                DecodeRequest(
                    Path(request.file),
                    request.start_s,
                    request.end_s,
                    SHORT_SIDE_PX,
                    allow_missing=self._accepts_missing,
                    allow_partial=rules.allow_partial,
                    extra=self._extra,
                )
                for request in to_decode
            ),
            jobs=jobs,
            limits=rules.limits,
        )
        for number, ((_, result), request) in enumerate(zip(decoded, requests, strict=True)):
            clip = self._check_modality(request.file, result)
            if isinstance(clip, MediaError):
                yield make_refusal(request, clip, self.id)
                continue
            if on_decoded is not None:
                on_decoded(number, clip)
            try:
                prediction = self.label_clip(request.file, clip, explain=explain)
                yield replace(prediction, requested_end_s=request.end_s)
            except InputError as error:  # the next clip's numbers may be finite
                window = request.start_s, request.end_s
                yield Refusal(request.file, NO_NUMBERS, str(error), "", *window, self.id)

    def label_clip(self, file: str, clip: DecodedClip, *, explain: bool = True) -> Prediction:
        """Label a clip, decoded with a short side of `SHORT_SIDE_PX` and with all that sources read."""
        missing = clip.missing if clip.missing in self.card.modalities else ""
        fusion, media = self.fusion, make_media(clip)
        with _NETWORK_LOCK:
            outputs = [
                None
                if source.recipe.modality == missing
                else [NetworkOutput(row["embedding"], row.get("logits")) for row in source.embed(media)]
                for source in self._sources
            ]
        columns = [
            None if output is None else fusion.values(number, output) for number, output in enumerate(outputs)
        ]
        contributions = [
            SourceContribution(
                fusion.sources[number].source,
                None if output is None else fusion.own(number, output),
                fusion.without(number, columns),
            )
            for number, output in enumerate(outputs if explain else [])
        ]
        return Prediction(
            file,
            self.classes,
            fusion.probabilities(columns),
            clip.start_s,
            clip.end_s,
            MODALITY_NAMES.get(missing, ""),
            tuple(contributions),
            clip.partial,
            clip.facts.duration_s,
            model=self.id,
        )

    def _check_modality(self, file: str, clip: DecodedClip | MediaError) -> DecodedClip | MediaError:
        """Return an error instead of a clip without a modality that the model needs."""
        if isinstance(clip, MediaError) or self.card.impute or clip.missing not in self.card.modalities:
            return clip
        name = MODALITY_NAMES[clip.missing]
        return MediaError(f"no_{name}", file, "" if _has_track(clip) else f"the file has no {name} track")

    def timeline(
        self, path: str | PathLike[str], *, hop_s: float = 5.0, limits: Limits | None = None
    ) -> Timeline:
        """Label a window of 30 s that moves over a file by `hop_s` seconds at a time.

        The file is decoded once; a window that cannot be read leaves a gap. Raises MediaError if the file
        cannot be opened, or has no modality that the model reads.
        """
        file, duration_s, missing = fspath(path), 0.0, ""
        windows: list[tuple[float, float]] = []
        rows: list[Floats] = []
        refusals: list[tuple[int, Refusal]] = []
        request = WindowRequest(Path(path), hop_s, SHORT_SIDE_PX, self._accepts_missing, self._extra)
        for window, result in read_windows_in_worker(request, limits=limits or self.limits):
            windows.append((window.start_s, window.end_s))
            clip = self._check_modality(file, result)
            if isinstance(clip, MediaError):
                if isinstance(result, DecodedClip) and not _has_track(result):
                    raise clip  # no window of the file has the modality
                refused = LabelRequest(file, window.start_s, window.end_s)
                refusals.append((window.number, make_refusal(refused, clip, self.id)))
                rows.append(np.full(len(self.classes), np.nan))
            else:
                prediction = self.label_clip(file, clip, explain=False)
                rows.append(prediction.probabilities)
                duration_s, missing = prediction.duration_s, missing or prediction.missing
        starts_s, ends_s = np.array(windows, dtype=np.float64).reshape(-1, 2).T
        probabilities = np.array(rows).reshape(-1, len(self.classes))
        duration_s = duration_s or float(ends_s.max(initial=0.0))
        return Timeline(
            file,
            self.classes,
            starts_s,
            ends_s,
            probabilities,
            tuple(refusals),
            duration_s,
            missing,
            hop_s,
            self.id,
        )


def _checked_prediction(result: Prediction | Refusal) -> Prediction:
    if isinstance(result, Prediction):
        return result
    if result.code == NO_NUMBERS:
        raise InputError(f"{result.file}: {result.detail}")
    raise MediaError(result.code, result.file, result.cause)


def _has_track(clip: DecodedClip) -> bool:
    """Whether the file has the missing modality, if not in this window."""
    return bool(clip.facts.audio_codec if clip.missing == "sound" else clip.facts.video_codec)
