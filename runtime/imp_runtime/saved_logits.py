"""Log-probabilities of a text as a file, to compare other models with: an .npz that numpy.load reads.

===========  =======================  ==================================================================================
array        type                     meaning
===========  =======================  ==================================================================================
tokens       int32[chunks, context]   what was run
vocabulary   str                      the tokenizer's vocabulary_hash
model        str                      whose they are, for people
logprobs     float16[n, vocab]        of each chunk's scored places in their order (see perplexity.py)
===========  =======================  ==================================================================================

Two bytes a log-probability: 78 MB for a chunk of 512 with a vocabulary of 152,000. float16 has 11 bits, so one of -0.1
is off by 3e-5, one of -10 by 4e-3. Readers make them add up to one again, so that what is left is of second order:
tests/null/test_perplexity.py has the divergence of a model from its own saved ones.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imp_runtime.divergence import Doubles
from imp_runtime.errors import ImpError
from imp_runtime.perplexity import Chunks, Floats, scored

_LEAST = float(np.finfo("<f2").min)
_NAMES = ("tokens", "vocabulary", "model", "logprobs")


@contextmanager
def saving(path: Path, chunks: Chunks, vocab: int, vocabulary: str, model: str) -> Iterator[Callable[[Doubles], None]]:
    """What takes log-probabilities float[some, vocab], in order. The file is there at the end, whole, or not at all.

    Raises ImpError where there is one already.
    """
    if path.exists():
        raise ImpError(f"{path}: exists already; remove it, or save the logits elsewhere")
    part = path.with_name(f"{path.name}.part")
    shape = (len(chunks) * scored(chunks.shape[1]), vocab)
    try:
        with zipfile.ZipFile(part, "w") as file:
            for name, array in (
                ("tokens", chunks.astype("<i4")),
                ("vocabulary", np.array(vocabulary)),
                ("model", np.array(model)),
            ):
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            with file.open("logprobs.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)

                def write(rows: Doubles) -> None:
                    member.write(np.maximum(rows, _LEAST).astype("<f2").tobytes())

                yield write
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class SavedLogits:
    """An open file, read as far as the log-probabilities."""

    path: Path
    chunks: Chunks
    vocab: int
    vocabulary: str
    model: str

    @staticmethod
    def open(path: Path) -> SavedLogits:
        """Raises ImpError for a file that is not what `saving` writes."""
        try:
            with zipfile.ZipFile(path) as file:
                tokens, vocabulary, model = (_small(file, name) for name in _NAMES[:3])
                with file.open("logprobs.npy") as member:
                    np.lib.format.read_magic(member)
                    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
                length = file.getinfo("logprobs.npy").file_size
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
            why = f"lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise ImpError(f"{path}: is no file of imp perplexity --save-logits: {why}") from None
        if tokens.ndim != 2 or tokens.dtype != np.dtype("<i4") or tokens.shape[1] < 3 or tokens.min(initial=0) < 0:
            raise ImpError(f"{path}: tokens are {tokens.dtype}{list(tokens.shape)}, expected int32[chunks, context]")
        rows = len(tokens) * scored(tokens.shape[1])
        if dtype != np.dtype("<f2") or fortran or len(shape) != 2 or shape[0] != rows or length < 2 * rows * shape[1]:
            raise ImpError(f"{path}: logprobs are {dtype}{list(shape)}, expected float16[{rows}, vocabulary]")
        return SavedLogits(path, tokens.astype(np.int64), shape[1], str(vocabulary), str(model))

    def rows(self, count: int) -> Iterator[Floats]:
        """All log-probabilities, of a chunk at most `count` rows at a time: float32[some, vocab]."""
        with zipfile.ZipFile(self.path) as file, file.open("logprobs.npy") as member:
            np.lib.format.read_magic(member)
            np.lib.format.read_array_header_1_0(member)
            for _ in range(len(self.chunks)):
                left = scored(self.chunks.shape[1])
                while left:
                    some = min(left, count)
                    data = _exactly(member.read, 2 * some * self.vocab, self.path)
                    yield np.frombuffer(data, "<f2").reshape(some, self.vocab).astype(np.float32)
                    left -= some


def _small(file: zipfile.ZipFile, name: str) -> npt.NDArray[np.generic]:
    with file.open(f"{name}.npy") as member:
        array: npt.NDArray[np.generic] = np.lib.format.read_array(member, allow_pickle=False)
        return array


def _exactly(read: Callable[[int], bytes], length: int, path: Path) -> bytes:
    parts: list[bytes] = []
    while length:
        try:
            part = read(length)
        except zipfile.BadZipFile as error:
            raise ImpError(f"{path}: is damaged: {error}; save the logits again") from None
        if not part:
            raise ImpError(f"{path}: ends early; save the logits again")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
