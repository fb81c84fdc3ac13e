"""What a file's own framing shows and FFmpeg does not tell: whether bytes of an MP3, WAV, Matroska or Ogg are lost."""

import zlib
from pathlib import Path

XING_BYTES = 256
"""The Xing header lies within the first frame's first bytes."""
EBML_BYTES = 4096
"""The segment begins behind a short header."""
WAV_PCM = (1, 3, 0xFFFE)
"""Format tags of PCM, float PCM, and their extensible form."""
WAV_PLACEHOLDER = 0x7FFF_F000
"""Programs that write to a pipe declare this size or a larger one."""
MIRRORED_BYTES = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def mp3_was_longer(path: Path) -> bool:
    """Whether an MP3 names in its Xing or Info header more bytes than it has."""
    with path.open("rb") as file:
        head = file.read(10)
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        start = 10 + size if head.startswith(b"ID3") else 0
        file.seek(start)
        first_frame = file.read(XING_BYTES)
    at = max(first_frame.find(b"Xing"), first_frame.find(b"Info"))
    fields = first_frame[at + 4 : at + 16]
    if at < 0 or len(fields) < 12 or fields[3] & 3 != 3:
        return False
    return start + int.from_bytes(fields[8:12], "big") > path.stat().st_size


def cut_wav_s(path: Path) -> float:
    """Seconds that the header of a PCM WAV declares if the file has been cut; 0 if it is whole or states no length."""
    size, bytes_per_s = path.stat().st_size, 0
    with path.open("rb") as file:
        at = 12
        while at < size and file.seek(at) == at and len(header := file.read(8)) == 8:
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"fmt ":
                fields = file.read(12)
                is_pcm = int.from_bytes(fields[:2], "little") in WAV_PCM
                bytes_per_s = int.from_bytes(fields[8:12], "little") if is_pcm else 0
            elif header[:4] == b"data":
                is_cut = size < at + 8 + length < WAV_PLACEHOLDER
                return length / bytes_per_s if is_cut and bytes_per_s else 0.0
            at += 8 + length + length % 2
    return 0.0


def matroska_is_complete(path: Path) -> bool:
    """Whether a Matroska file has all bytes that its segment declares (RFC 8794); False where it declares none."""
    with path.open("rb") as file:
        head = file.read(EBML_BYTES)
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or not head[at : at + 1]:
        return False
    length = 9 - head[at].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[at : at + length], "big") & unknown
    return size != unknown and at + length + size <= path.stat().st_size


def ogg_is_damaged(path: Path) -> bool:
    """Whether pages of an Ogg are missing by their numbers, or damaged by their checksums (RFC 3533)."""
    numbers: dict[bytes, int] = {}
    with path.open("rb") as file:
        while len(header := file.read(27)) == 27:
            sizes = file.read(header[26])
            page = header[:22] + bytes(4) + header[26:] + sizes + file.read(sum(sizes))
            begins, stream, number = header[5] & 2, header[14:18], int.from_bytes(header[18:22], "little")
            if not begins and number != numbers.get(stream, number - 1) + 1:
                return True
            if int.from_bytes(header[22:26], "little") != _ogg_checksum(page):
                return True
            numbers[stream] = number
    return False


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC of a page: that of zlib with the bits of each byte in the other order, from and to 0."""
    mirrored = zlib.crc32(page.translate(MIRRORED_BYTES), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
