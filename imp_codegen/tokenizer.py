"""The tokenizer of a GGUF file as `tokenizers` JSON, built when a model is compiled and stored in its artifact.

Two families: "gpt2" is byte-level BPE with a pre-tokenizer named by `tokenizer.ggml.pre`; "llama" is SentencePiece BPE,
whose merges follow from the scores. Where llama.cpp and the model's own Hugging Face tokenizer disagree (NFC), the
latter is followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from imp_codegen.checkpoint import CheckpointError, Metadata

_MOST_TOKENS = 1 << 22
_LONGEST_TOKEN = 1 << 12
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "\u2581"  # SentencePiece writes a space as this character

_END_STRINGS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "</s>",
    "<|return|>", "<|call|>",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the artifact stores of the tokenizer. `stop_tokens` end a reply; `special_tokens` maps text to id.

    `tool_template` is the chat template for conversations with tools, where the file has one of its own.
    """

    tokenizer_json: str
    chat_template: str | None
    tool_template: str | None
    vocab_size: int
    bos: int | None
    eos: int | None
    add_bos: bool
    stop_tokens: tuple[int, ...]
    special_tokens: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut before BPE: each pattern in turn isolates its matches within the pieces so far."""

    patterns: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS_OR_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}"

_FAMILIES: tuple[tuple[tuple[str, ...], PreTokenizer], ...] = (
    (
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"),
        PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
    ),
    (("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), PreTokenizer((_LLAMA3,))),
    (
        ("qwen2", "deepseek-r1-qwen"),
        PreTokenizer((rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}",), nfc=True),
    ),
    (
        ("qwen35",),
        PreTokenizer(
            (
                rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
                r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            nfc=True,
        ),
    ),
    (("gpt-2", "phi-2"), PreTokenizer((_GPT2,))),
    (("smollm", "starcoder", "refact"), PreTokenizer((r"\p{N}", _GPT2))),
    (("command-r",), PreTokenizer((r"\p{N}", _GPT2), nfc=True)),
    (("default",), PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
    (
        ("gpt-4o",),
        PreTokenizer(
            (rf"{_CASED[0]}{_CONTRACTION}?|{_CASED[1]}{_CONTRACTION}?|\p{{N}}{{1,3}}|{_SYMBOLS_OR_SLASH}",),
        ),
    ),
    (
        ("tekken",),
        PreTokenizer((rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SYMBOLS_OR_SLASH}",), ignore_merges=True, add_bos=True),
    ),
    (
        ("deepseek-v3",),
        PreTokenizer(
            (
                r"\p{N}{1,3}",
                "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        ("deepseek-coder",),
        PreTokenizer(
            (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"),
        ),
    ),
)
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {name: pre for names, pre in _FAMILIES for name in names}


def build_tokenizer(metadata: Metadata) -> TokenizerFiles:
    """The tokenizer described by a GGUF file's keys. Raises CheckpointError if they are incomplete or contradictory."""
    kind = metadata.string("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise metadata.wrong("tokenizer.ggml.model", "gpt2 (byte-level BPE) or llama (SentencePiece)")
    vocab = _vocabulary(metadata)
    tokens = list(vocab)
    types = _types(metadata, len(tokens))
    bos = _token_id(metadata, "bos", len(tokens), 1 if kind == "llama" else None)
    eos = _token_id(metadata, "eos", len(tokens), 2 if kind == "llama" else None)
    if kind == "gpt2":
        pre = _pre_tokenizer(metadata)
        tokenizer, add_bos = _byte_level(metadata, vocab, pre), pre.add_bos
    else:
        tokenizer, add_bos = _sentence_piece(metadata, vocab, types), True
    special = {tokens[index]: index for index, kind in enumerate(types) if kind in (_CONTROL, _UNKNOWN)}
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    defined = (tokens[index] for index, kind in enumerate(types) if kind == _USER_DEFINED)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in defined])
    template, tool_template = "tokenizer.chat_template", "tokenizer.chat_template.tool_use"
    return TokenizerFiles(
        tokenizer_json=tokenizer.to_str(),
        chat_template=metadata.string(template) if template in metadata else None,
        tool_template=metadata.string(tool_template) if tool_template in metadata else None,
        vocab_size=len(tokens),
        bos=bos,
        eos=eos,
        add_bos=metadata.boolean("tokenizer.ggml.add_bos_token", add_bos) and bos is not None,
        stop_tokens=_stop_tokens(metadata, eos, special, len(tokens)),
        special_tokens=special,
    )


def _vocabulary(metadata: Metadata) -> dict[str, int]:
    key = "tokenizer.ggml.tokens"
    tokens = metadata.strings(key)
    if not 1 <= len(tokens) <= _MOST_TOKENS:
        raise metadata.wrong(key, f"a list of 1..{_MOST_TOKENS} texts")
    vocab: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not token or len(token) > _LONGEST_TOKEN:
            raise CheckpointError(
                f"{metadata.path}: {key}: token {index} has {len(token)} characters, expected 1..{_LONGEST_TOKEN}"
            )
        if vocab.setdefault(token, index) != index:
            raise CheckpointError(
                f"{metadata.path}: {key}: tokens {vocab[token]} and {index} are both {token[:60]!r}, expected once"
            )
    return vocab


def _types(metadata: Metadata, count: int) -> Sequence[int]:
    key = "tokenizer.ggml.token_type"
    types = metadata.integers(key) if key in metadata else [_NORMAL] * count
    if len(types) != count:
        raise metadata.wrong(key, f"one type for each of the {count} tokens")
    return types


def _token_id(metadata: Metadata, name: str, count: int, default: int | None = None) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key in metadata:
        return metadata.integer(key, maximum=count - 1)
    return default if default is not None and default < count else None


def _pre_tokenizer(metadata: Metadata) -> PreTokenizer:
    key = "tokenizer.ggml.pre"
    found = PRE_TOKENIZERS.get(metadata.string(key, "default"))
    if found is None:
        raise metadata.wrong(key, f"one of the pre-tokenizers that imp knows: {', '.join(sorted(PRE_TOKENIZERS))}")
    return found


def _byte_level(metadata: Metadata, vocab: dict[str, int], pre: PreTokenizer) -> Tokenizer:
    key = "tokenizer.ggml.merges"
    merges: list[tuple[str, str]] = []
    for index, merge in enumerate(metadata.strings(key)):
        left, _, right = merge.partition(" ") if not merge.startswith(" ") else ("", "", "")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise CheckpointError(
                f"{metadata.path}: {key}: merge {index}, {merge[:60]!r}, is not a pair of tokens that make a token"
            )
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre.ignore_merges))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(metadata: Metadata, vocab: dict[str, int], types: Sequence[int]) -> Tokenizer:
    key = "tokenizer.ggml.scores"
    scores = metadata.numbers(key)
    if len(scores) != len(vocab):
        raise metadata.wrong(key, f"one score for each of the {len(vocab)} tokens")
    unknown = next((text for text, index in vocab.items() if types[index] == _UNKNOWN), None)
    if unknown is None:
        index = _token_id(metadata, "unknown", len(vocab), 0)
        unknown = next(text for text, token in vocab.items() if token == index)
    merges = _merges_of_scores(vocab, types, scores)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    to_space = decoders.Replace(_SPACE, " ")
    if metadata.boolean("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
        steps = [to_space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    else:
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        steps = [to_space, decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_of_scores(vocab: Mapping[str, int], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """SentencePiece joins the neighbours whose union has the best score: each way to halve a token is a merge.

    Of equal scores the union that begins first wins; Mistral's runs of 2 to 16 spaces are such. A rank cannot say where
    a pair stands, but with the longest left half first, then the longest right one, a run grows from its beginning.
    """
    ranked: list[tuple[float, int, int, str, str]] = []
    for token, index in vocab.items():
        if types[index] != _NORMAL:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                ranked.append((-scores[index], -len(left), -len(right), left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _stop_tokens(metadata: Metadata, eos: int | None, special: Mapping[str, int], count: int) -> tuple[int, ...]:
    ids = {eos, *(_token_id(metadata, name, count) for name in ("eot", "eom"))}
    ends = {text for text in _END_STRINGS if text in special}
    if "<|return|>" in ends:  # the harmony format ends a message, not the reply, with <|end|>
        ends.discard("<|end|>")
    return tuple(sorted({special[text] for text in ends} | {index for index in ids if index is not None}))
