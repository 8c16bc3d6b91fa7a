"""`hf:org/repo[:QUANT]`: a GGUF of the Hugging Face Hub, in the cache that every other program uses too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import httpx
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from imp_runtime.errors import ImpError

_SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<quant>[\w.-]+))?")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


class DownloadError(ImpError):
    """A checkpoint that cannot be had from the Hub."""


def download(source: str) -> Path:
    """The local file of `hf:org/repo[:QUANT]`, downloaded unless it is in the cache. Raises DownloadError.

    The cache is huggingface_hub's: HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they mean everywhere. Without a
    network a file that is in the cache is found all the same.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise DownloadError(f"{source} names no repository; write hf:org/repo or hf:org/repo:QUANT, like :Q8_0")
    repo, quant = match["repo"], match["quant"]
    try:
        names = HfApi().list_repo_files(repo)
        return Path(hf_hub_download(repo, _choose(source, names, quant)))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError, OSError) as error:
        if isinstance(error, HfHubHTTPError):
            raise _refused(source, repo, error) from None
        return _cached(source, repo, quant)
    except HFValidationError as error:
        raise DownloadError(f"{source}: {error}") from None


def _cached(source: str, repo: str, quant: str | None) -> Path:
    """What an earlier download has left."""
    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        folder = None
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.gguf")) if folder is not None else []
    if folder is None or not names:
        raise DownloadError(
            f"{source}: the Hub cannot be reached and {repo} is not in the cache; connect this machine, "
            "or download the file elsewhere and compile it by its path"
        )
    return folder / _choose(source, names, quant)


def _choose(source: str, names: Sequence[str], quant: str | None) -> str:
    """The one GGUF that is meant. Raises DownloadError, which lists what there is."""
    files = sorted(name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower())
    if not files:
        raise DownloadError(f"{source}: the repository has no GGUF file; look for one with -GGUF in its name")
    wanted = files
    if quant is not None:
        # The quantisation stands between separators, so that Q4_K does not mean Q4_K_M.
        pattern = re.compile(rf"(^|[-._/]){re.escape(quant)}([-.]|$)", re.IGNORECASE)
        wanted = [name for name in files if pattern.search(name)]
    if len(wanted) == 1:
        return wanted[0]
    if wanted and all(_PART.search(name) for name in wanted):
        raise DownloadError(
            f"{source}: the checkpoint is split into {len(wanted)} files; join them with llama-gguf-split --merge "
            "and compile the result"
        )
    which = "more than one fits" if wanted else f"no file is {quant}"
    shown = ", ".join(files[:12]) + (", ..." if len(files) > 12 else "")
    raise DownloadError(f"{source}: {which}; add :QUANT for one of {shown}")


def _refused(source: str, repo: str, error: HfHubHTTPError) -> DownloadError:
    if isinstance(error, GatedRepoError):
        return DownloadError(f"{source}: access must be asked for at https://huggingface.co/{repo}; then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return DownloadError(f"{source}: there is no such repository, or it is private; HF_TOKEN opens private ones")
    return DownloadError(f"{source}: the Hub answered {error.response.status_code}; try again later")
