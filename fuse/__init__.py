"""Stage two: design matrices behind a leak guard, fusion heads, ablations."""

from moodfuse.fuse.heads import make_head

__all__ = ["make_head"]
