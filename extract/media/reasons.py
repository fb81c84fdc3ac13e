"""Why a clip is refused: a closed list of codes, the same in every command, each with its remedy."""

from moodfuse.extract.media.limits import MAX_ASPECT

REASONS: dict[str, str] = {
    "missing": "no such file; check the path in the folder or the CSV",
    "not_a_file": "not a regular file; give a media file, not a folder, pipe or device",
    "unreadable": "the file may not be read; check its permissions",
    "empty": "the file is empty; copy or download it again",
    "changed": "the file changed while it was read; run the command again once it is complete",
    "not_media": "not a video file that can be opened; convert it to MP4 (H.264 and AAC)",
    "no_video": "there is no picture in the window; give a video, or a window that has a picture",
    "no_audio": "there is no sound in the window; give a video with sound, or a window that has some",
    "too_large": f"the picture has over 3840 x 2160 pixels, or sides of over {MAX_ASPECT} to 1; scale the video down",
    "too_much": "the file is larger, or holds more before the window ends, than is read; cut the clip out first",
    "codec": "picture or sound is in a coding that is not read; convert the file to MP4 (H.264 and AAC)",
    "truncated": "the file ends before it should; copy or download it again, or give a window inside what is left",
    "decode_failed": "picture or sound cannot be decoded; convert the file again from its source",
    "window_outside": "the window is not inside the file; correct start_s and end_s",
    "timeout": "decoding took longer than its deadline; cut the clip out of the file first, or allow more time",
    "memory": "it took more memory than allowed; allow more, or use fewer jobs; a damaged file may ask for any amount",
}
"""Why a clip is refused: code -> one sentence with the remedy."""
