"""`hf:org/repo[:QUANT]`: a GGUF, or a folder of safetensors, in the Hub's cache that every other program uses too."""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, ModelInfo, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from imp_runtime.errors import ImpError
from imp_runtime.text import visible

T = TypeVar("T")
_SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<quant>[\w.-]+))?")
_PART = re.compile(r"-\d{5}(-of-\d{5}\.gguf)$", re.IGNORECASE)
# Of images or sound, what guides quantisation, and what drafts tokens.
_NO_MODEL = re.compile(r"mmproj|imatrix|(^|/)mtp[-/]", re.IGNORECASE)
_WHOLE, _SHARD = "model.safetensors", re.compile(r"model-\d+-of-(\d+)\.safetensors", re.ASCII)
_INDEX = "model.safetensors.index.json"
_SAFETENSORS = "safetensors"  # in place of a quantisation
CONFIG = "config.json"
_TEXTS = frozenset((
    "1_Pooling/config.json", "additional_chat_templates/tool_use.jinja", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "hf_quant_config.json", _INDEX, "modules.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
))  # fmt: skip
_PATIENCE = 2.0  # seconds for the Hub to answer what is in a repository, where HF_HUB_ETAG_TIMEOUT says nothing


class DownloadError(ImpError):
    """A checkpoint that cannot be had from the Hub."""


def download(source: str) -> Path:
    """The local file or folder of `hf:org/repo[:QUANT]`, downloaded unless it is in the cache. Raises DownloadError.

    A GGUF file where the repository has one; else, and for the QUANT "safetensors", the folder. The cache is
    huggingface_hub's: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_ETAG_TIMEOUT mean what they mean everywhere. Where
    the Hub does not answer, what is in the cache is found all the same.
    """

    def fetch(repo: str, quant: str | None) -> Path:
        names = choose(source, [each.rfilename for each in listing(repo).siblings or ()], quant)
        paths = [Path(hf_hub_download(repo, name)) for name in names]
        return paths[0].parent if names[0] == CONFIG else paths[0]

    return from_hub(source, fetch)


def from_hub(source: str, fetch: Callable[[str, str | None], T]) -> T | Path:
    """What `fetch` has of a repository and a quantisation, or what is in the cache where the Hub does not answer."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise DownloadError(f"{source} names no repository; write hf:org/repo or hf:org/repo:QUANT, like :Q8_0")
    repo, quant = match["repo"], match["quant"]
    try:
        return fetch(repo, quant)
    except HFValidationError as error:
        raise DownloadError(f"{source}: {error}") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        return _cached(source, repo, quant, "the Hub cannot be reached")
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise refused(source, repo, error) from None
        return _cached(source, repo, quant, f"the Hub answered {error.response.status_code}")
    except TimeoutError as error:
        return _cached(source, repo, quant, str(error))
    except OSError as error:
        raise DownloadError(f"{source}: {error}") from None
    except ValueError as error:  # of the client, about a proxy's address
        return _cached(source, repo, quant, f"the Hub cannot be asked ({error})")
    except Exception as error:
        if not _is_transport(error):
            raise
        return _cached(source, repo, quant, "the Hub cannot be reached")


def licence(source: str) -> str | None:
    """The licence that the Hub names in its listing of a repository; None where it names none, or cannot be asked."""

    def fetch(repo: str, quant: str | None) -> str:
        tags = listing(repo).tags or ()
        return next((visible(tag)[8:208] for tag in tags if tag.startswith("license:")), "")

    try:
        found = from_hub(source, fetch)
    except DownloadError:
        return None
    return found if isinstance(found, str) and found else None


def listing(repo: str, *, files_metadata: bool = False) -> ModelInfo:
    """What the Hub says of a repository, and with `files_metadata` of its files' sizes and hashes.

    Raises what huggingface_hub raises, and TimeoutError where no answer comes.
    """
    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _PATIENCE)
    answers: queue.SimpleQueue[ModelInfo | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(HfApi().model_info(repo, timeout=patience, files_metadata=files_metadata))
        except Exception as error:
            answers.put(error)

    # In a thread, since a silent name server, or one address after another, outlasts the client's own timeout.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        raise TimeoutError(f"the Hub did not answer in {patience:g} s (HF_HUB_ETAG_TIMEOUT may allow more)") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _is_transport(error: Exception) -> bool:
    """Whether the network failed. The Hub's client raises errors of httpx in its version 1, of httpx2 in version 2."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _cached(source: str, repo: str, quant: str | None, reason: str) -> Path:
    """What an earlier download has left; `reason` says why the Hub was of no help."""
    try:
        # No pattern: version 2 refuses a snapshot that lacks some of the files that it is asked for.
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        folder = None
    names = [] if folder is None else sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    if folder is None or not (any(name.endswith(".gguf") for name in names) or _folder_files(source, names)):
        raise DownloadError(
            f"{source}: {reason} and {repo} is not in the cache; connect this machine, "
            "or download the file elsewhere and compile it by its path"
        )
    first = choose(source, names, quant)[0]
    return folder if first == CONFIG else folder / first


def _folder_files(source: str, names: Sequence[str]) -> list[str]:
    """What a folder of safetensors consists of, config.json first; nothing where there is none.

    Of several sets of weights in a repository it is the one that transformers loads. Raises DownloadError where its
    names leave that open.
    """
    weights = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if not weights or CONFIG not in names:
        return []
    texts = [name for name in names if name in _TEXTS]
    if _WHOLE in weights:
        return [CONFIG, *(name for name in texts if name != _INDEX), _WHOLE]
    shards = {name: found[1] for name in weights if (found := _SHARD.fullmatch(name))}
    if len(set(shards.values())) > 1:
        raise DownloadError(
            f"{source}: the repository has its weights more than once: {_some(sorted(shards))}; download what is meant "
            "and name its folder"
        )
    return [CONFIG, *texts, *(shards or [name for name in weights if name.startswith("model")] or weights)]


def choose(source: str, names: Sequence[str], quant: str | None) -> list[str]:
    """The one GGUF that is meant, or the files of a folder. Raises DownloadError, which lists what there is."""
    files = sorted(name for name in names if name.lower().endswith(".gguf") and not _NO_MODEL.search(name))
    if quant == _SAFETENSORS or (not files and quant is None):
        if found := _folder_files(source, names):
            return found
        raise DownloadError(
            f"{source}: the repository has no {'' if files else 'GGUF file, and no '}safetensors beside a config.json"
        )
    if not files:
        raise DownloadError(
            f"{source}: the repository has no GGUF file; look for one with -GGUF in its name, or write hf:org/repo for "
            "its safetensors"
        )
    wanted = files if quant is None else _quantised(files, quant)
    models = {_PART.sub(r"-*\1", name): None for name in wanted or files}
    if wanted and len(models) == 1:
        return wanted  # one file, or all parts of one
    if quant is None or not wanted:
        which = "more than one fits" if wanted else f"no file is {quant}"
        raise DownloadError(f"{source}: {which}; add :QUANT for one of {_some(models)}")
    raise DownloadError(f"{source}: more than one is {quant}: {_some(models)}; download one and name its path")


def _quantised(files: Sequence[str], quant: str) -> list[str]:
    """Those of a quantisation, which stands between separators, so that Q4_K does not mean Q4_K_M.

    Where there is one beside a dynamic one (UD-Q4_K_M, as Unsloth calls it), the former is meant.
    """

    def named(name: str) -> list[str]:
        return [file for file in files if re.search(rf"(^|[-._/]){re.escape(name)}([-./]|$)", file, re.IGNORECASE)]

    found, dynamic = named(quant), named(f"UD-{quant}")
    return [file for file in found if file not in dynamic] or found


def _some(names: Iterable[str]) -> str:
    """The first dozen."""
    every = [*names]
    return ", ".join(every[:12]) + (", ..." if len(every) > 12 else "")


def refused(source: str, repo: str, error: HfHubHTTPError) -> DownloadError:
    """What to say where the Hub does not give something."""
    if isinstance(error, GatedRepoError):
        return DownloadError(f"{source}: access must be asked for at https://huggingface.co/{repo}; then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return DownloadError(f"{source}: there is no such repository, or it is private; HF_TOKEN opens private ones")
    return DownloadError(f"{source}: the Hub answered {error.response.status_code}; try again later")
