"""Find files of Hugging Face repositories in the local cache, or download them into it."""

from __future__ import annotations

from pathlib import Path

from moodfuse.extract.networks.weights.files import WeightsError

_TIMEOUT_S = 10


def find_file(repository: str, file: str, *, name: str, revision: str | None = None) -> Path:
    """A file of a repository, for the network `name`; downloaded if it is not in the cache.

    Raises `WeightsError`, which says what to download, if it is not there and cannot be downloaded.
    """
    import requests
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError):
        pass  # not in the cache
    try:
        if not constants.HF_HUB_OFFLINE:
            requests.head(constants.ENDPOINT, timeout=_TIMEOUT_S)  # huggingface_hub retries for half a minute
        return Path(hf_hub_download(repository, file, revision=revision))
    except (ValueError, OSError) as error:  # the errors of huggingface_hub and of its requests
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set"
        elif isinstance(error, (requests.ConnectionError, requests.Timeout, LocalEntryNotFoundError)):
            reason = f"{constants.ENDPOINT} cannot be reached"
        else:
            reason = str(error).strip().partition("\n")[0]
        at = "" if revision is None else f" --revision {revision}"
        raise WeightsError(
            f"{name}: {file} is not in {constants.HF_HUB_CACHE} and cannot be downloaded ({reason}); run "
            f"`hf download {repository}{at} --local-dir FOLDER` on a machine with a network, copy FOLDER to "
            f"this one, and add --weights {name}=FOLDER"
        ) from error
