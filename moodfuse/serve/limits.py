"""How much a service takes, and for how long."""

from dataclasses import dataclass, fields

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost. At most `at_once + waiting` uploads are on the disk.

    Attributes
    ----------
    upload_bytes : int
        Largest file.
    upload_s : float
        Seconds for an upload to arrive.
    grace_s : float
        Seconds after which an upload must keep to `upload_rate`.
    upload_rate : float
        Least bytes per second of an upload, on average since its first `grace_s`.
    request_s : float
        Seconds from the end of the upload to the answer: waiting and labelling.
    at_once : int
        Files that are labelled at once.
    waiting : int
        Further requests that may arrive or wait; one more is refused.
    timeline_s : float
        Longest video for a time line, in seconds.
    timeline_windows : int
        Most windows of a time line.
    """

    upload_bytes: int = 512 * MIB
    upload_s: float = 120.0
    grace_s: float = 10.0
    upload_rate: float = 32.0 * 1024
    request_s: float = 120.0
    at_once: int = 2
    waiting: int = 8
    timeline_s: float = 600.0
    timeline_windows: int = 120

    def __post_init__(self) -> None:
        for field in fields(self):
            least, value = (0 if field.name == "waiting" else 1), getattr(self, field.name)
            if field.type is float and not 0 < value < float("inf"):
                raise ValueError(f"{field.name} is {value}, expected a number above 0")
            if field.type is int and value < least:
                raise ValueError(f"{field.name} is {value}, expected {least} or more")
