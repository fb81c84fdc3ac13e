"""The clips as the leak guard reads them: five columns, so that many thousands cost little beside a fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from cache.records import ClipStatus
from cache.tables import ClipTable


@dataclass(frozen=True, slots=True)
class GuardedClip:
    """What the guard reads of a clip: a whole record of each of many thousands would take longer than most fits."""

    id: str
    label: str
    digest: str
    file_sha256: str
    group: str

    @property
    def clip(self) -> "GuardedClip":
        """Itself: `id` and `label` stand in the clip of a `ClipStatus`."""
        return self


def guarded_clips(clips: Sequence[ClipStatus]) -> tuple[GuardedClip, ...]:
    """The clips as the guard reads them."""
    if not isinstance(clips, ClipTable):
        return tuple(
            GuardedClip(item.clip.id, item.clip.label, item.digest, item.file_sha256, item.group) for item in clips
        )
    known = tuple(clips.texts["label"])
    labels = [known[place] for place in clips.rows["label"].tolist()]
    columns = (clips.texts[name] for name in ("digest", "file_sha256", "group"))
    return tuple(map(GuardedClip, clips.ids, labels, *columns))
