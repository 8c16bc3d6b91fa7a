"""Fill in the middle: a prompt of what stands before and after, for models whose vocabulary has the marks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imp_server.errors import ApiError
from imp_server.frontend import Frontend
from imp_server.generation.options import Options


@dataclass(frozen=True, slots=True)
class _Marks:
    """The tokens before the prefix, the suffix and the middle; around other files, and that pad (they may be empty)."""

    prefix: str
    suffix: str
    middle: str
    repository: str = ""
    file: str = ""
    padding: str = ""


# As the model cards spell them.
_FAMILIES = (
    _Marks(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>", "<|fim_pad|>"
    ),  # Qwen
    _Marks(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<file_sep>", "<fim_pad>"
    ),  # StarCoder, Granite
    _Marks("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek
    _Marks("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # CodeLlama
    _Marks("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),  # Codestral
)
_SUFFIX_FIRST = "[SUFFIX]"


def fill_prompt(
    model: Frontend, prefix: str, suffix: str, *, files: Sequence[tuple[str, str]] = (), begun: str = ""
) -> list[int]:
    """Token ids that ask for what belongs between `prefix` and `suffix` and begins with `begun`.

    `files` are (name, text) of others of the project. Raises ApiError (501) when the model has no marks for it.
    """
    id_of = model.tokenizer.backend.token_to_id
    marks, ids = _marks(model)

    def encode(text: str) -> list[int]:
        return model.tokenizer.encode(text, special=False, spelled=False) if text else []

    before: list[int] = []
    separator = id_of(marks.file) if marks.file else None
    if files and separator is not None:
        for name, text in files:
            before += [separator, *encode(f"{name}\n{text}\n")]
        before.append(separator)
    elif files:
        before = encode("".join(f"{text}\n" for _, text in files))
    first, second, third = ids
    if marks.suffix == _SUFFIX_FIRST:
        tokens = [second, *encode(suffix), first, *before, *encode(prefix)]
    else:
        tokens = [*before, first, *encode(prefix), second, *encode(suffix), third]
    tokens += encode(begun)
    bos = model.plan.bos_token
    return [bos, *tokens] if model.plan.add_bos and bos >= 0 else tokens


def until_mark(model: Frontend, options: Options) -> Options:
    """`options` of a filling, which ends also where a mark says that something else begins. Raises ApiError (501)."""
    if options.get("ignore_eos"):
        return options
    marks, ids = _marks(model)
    others = map(model.tokenizer.backend.token_to_id, (marks.repository, marks.file, marks.padding))
    ends = (*ids, *(index for index in others if index is not None))
    return {**options, "stop_tokens": (*(options.get("stop_tokens") or ()), *ends)}


def _marks(model: Frontend) -> tuple[_Marks, list[int]]:
    """The marks that the vocabulary has, and the ids of the first three."""
    id_of = model.tokenizer.backend.token_to_id
    for marks in _FAMILIES:
        ids = [index for mark in (marks.prefix, marks.suffix, marks.middle) if (index := id_of(mark)) is not None]
        if len(ids) == 3:
            return marks, ids
    raise ApiError(
        f"the model {model.plan.model} has no tokens for filling in the middle; use a code model that has",
        status=501,
        code="not_supported",
    )
