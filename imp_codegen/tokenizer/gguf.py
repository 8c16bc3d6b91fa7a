"""The tokenizer of a GGUF file, from its keys.

Three families: "gpt2" is byte-level BPE with a pre-tokenizer named by `tokenizer.ggml.pre`; "llama" is SentencePiece
BPE, whose merges follow from the scores; "gemma4" is spelled like SentencePiece and has merges. Where llama.cpp and the
model's own Hugging Face tokenizer disagree (NFC), the latter is followed.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from imp_codegen.checkpoint import CheckpointError, Metadata
from imp_codegen.tokenizer.files import ENDS, TokenizerFiles, ends_of_reply
from imp_codegen.tokenizer.pretokenizers import PRE_TOKENIZERS, PreTokenizer

_MOST_TOKENS = 1 << 22
_LONGEST_TOKEN = 1 << 12
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "\u2581"  # SentencePiece writes a space as this character


def from_keys(metadata: Metadata) -> TokenizerFiles:
    """The tokenizer described by a GGUF file's keys. Raises CheckpointError if they are incomplete or contradictory."""
    kind = metadata.string("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama", "gemma4"):
        raise metadata.wrong(
            "tokenizer.ggml.model", "gpt2 (byte-level BPE), llama (SentencePiece) or gemma4 (SentencePiece with merges)"
        )
    vocab = _vocabulary(metadata)
    tokens = list(vocab)
    types = _types(metadata, len(tokens))
    bos = _token_id(metadata, "bos", len(tokens), 1 if kind == "llama" else None)
    eos = _token_id(metadata, "eos", len(tokens), 2 if kind == "llama" else None)
    special = {text: index for text, index in vocab.items() if types[index] in (_CONTROL, _UNKNOWN) or text in ENDS}
    stops = _stop_tokens(metadata, eos, special, types)
    notes = _notes(metadata, kind, types, tokens, stops)
    if kind == "llama":
        tokenizer, add_bos = _sentence_piece(metadata, vocab, types, special), True
    else:
        pre = PRE_TOKENIZERS["gemma4"] if kind == "gemma4" else _pre_tokenizer(metadata)
        tokenizer, add_bos = _byte_pairs(metadata, vocab, types, pre, special), pre.add_bos
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    defined = (text for text, index in vocab.items() if types[index] == _USER_DEFINED and text not in special)
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
        add_eos=metadata.boolean("tokenizer.ggml.add_eos_token", False) and eos is not None,
        stop_tokens=stops,
        notes=notes,
        recommended={},
    )


def _notes(
    metadata: Metadata, kind: str, types: Sequence[int], tokens: Sequence[str], stops: Sequence[int]
) -> tuple[str, ...]:
    notes = []
    if kind == "gpt2" and "tokenizer.ggml.pre" not in metadata:
        notes.append(
            "has no key tokenizer.ggml.pre: text is cut in llama.cpp's default way, which may not be the model's; "
            "answers may be worse than they should be, convert the model again"
        )
    mistyped = [tokens[index] for index in stops if types[index] not in (_CONTROL, _UNKNOWN)]
    if mistyped:
        notes.append(f"tokenizer.ggml.token_type calls {', '.join(mistyped)} text; taken as what ends a reply")
    return tuple(f"{metadata.path}: {note}" for note in notes)


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
        raise metadata.wrong(key, f"one of the {len(PRE_TOKENIZERS)} that imp knows, like llama-bpe, qwen2 or tekken")
    return found


def _byte_pairs(
    metadata: Metadata, vocab: dict[str, int], types: Sequence[int], pre: PreTokenizer, special: Container[str]
) -> Tokenizer:
    merges = _merges(metadata, vocab, special)
    if pre.raw:
        unknown = _unknown(metadata, vocab, types)
        model = models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.decoder = _sentence_piece_decoder()
        return tokenizer
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre.ignore_merges))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *map(_isolated, pre.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            *map(_isolated, pre.letters),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _isolated(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _merges(metadata: Metadata, vocab: Mapping[str, int], special: Container[str]) -> list[tuple[str, str]]:
    """The merges, without those that would make a special token of text."""
    key = "tokenizer.ggml.merges"
    merges: list[tuple[str, str]] = []
    for index, merge in enumerate(metadata.strings(key)):
        left, _, right = merge.partition(" ") if not merge.startswith(" ") else ("", "", "")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise CheckpointError(
                f"{metadata.path}: {key}: merge {index}, {merge[:60]!r}, is not a pair of tokens that make a token"
            )
        if left + right not in special:
            merges.append((left, right))
    return merges


def _sentence_piece(
    metadata: Metadata, vocab: dict[str, int], types: Sequence[int], special: Container[str]
) -> Tokenizer:
    key = "tokenizer.ggml.scores"
    scores = metadata.numbers(key)
    if len(scores) != len(vocab):
        raise metadata.wrong(key, f"one score for each of the {len(vocab)} tokens")
    unknown = _unknown(metadata, vocab, types)
    merges = _merges_of_scores({text: i for text, i in vocab.items() if text not in special}, types, scores)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    if metadata.boolean("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
        tokenizer.decoder = _sentence_piece_decoder(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.decoder = _sentence_piece_decoder()
    return tokenizer


def _sentence_piece_decoder(*last: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last])


def _unknown(metadata: Metadata, vocab: Mapping[str, int], types: Sequence[int]) -> str:
    """The token of type unknown, else the one that the key names."""
    index = next((index for index, kind in enumerate(types) if kind == _UNKNOWN), None)
    if index is None:
        index = _token_id(metadata, "unknown", len(vocab), 0)
    return next(text for text, token in vocab.items() if token == index)


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


def _stop_tokens(
    metadata: Metadata, eos: int | None, special: Mapping[str, int], types: Sequence[int]
) -> tuple[int, ...]:
    named = {eos, *(_token_id(metadata, name, len(types)) for name in ("eot", "eom"))}
    return ends_of_reply(special, {index for index in named if index is not None})
