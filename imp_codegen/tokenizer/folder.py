"""The tokenizer of a Hugging Face folder.

`tokenizer.json` is the tokenizer; `tokenizer_config.json` names its special tokens, `generation_config.json` what ends
a reply and how to sample, and the chat template has a file of its own or a place in `tokenizer_config.json`. Where two
of them contradict each other, what transformers goes by counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tokenizers import Tokenizer

from imp_codegen.checkpoint import Checkpoint, CheckpointError, Metadata
from imp_codegen.checkpoint.json_text import LONGEST_FILE, keys_and_values, parse_object, shown_name
from imp_codegen.tokenizer.files import TokenizerFiles, ends_of_reply, with_calls
from imp_runtime.text import visible

TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_TEMPLATE = "chat_template.jinja"
_OLD_TEMPLATE = "chat_template.json"
_TOOL_TEMPLATE = "additional_chat_templates/tool_use.jinja"
_LONGEST_TOKENIZER = 1 << 28  # bytes; those of 262,144 tokens have 33 million
_MOST_TOKENS = 1 << 22
# Other forms of a tokenizer, which a folder may have alone.
_OTHERS = ("tokenizer.model", "tekken.json", "vocab.json", "tiktoken.model", "qwen.tiktoken")
# Of generation_config.json: least and most that imp samples with, and what is neither followed nor a default.
_RECOMMENDED = {
    "temperature": (0.0, 100.0), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0), "repetition_penalty": (0.01, 100.0),
}  # fmt: skip
_LARGEST_TOP_K = 1 << 30
_NOT_FOLLOWED = (
    "bad_words_ids", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "sequence_bias",
    "suppress_tokens",
)  # fmt: skip


def from_folder(checkpoint: Checkpoint) -> TokenizerFiles:
    """The tokenizer of a folder. CheckpointError names the file and field that is missing, odd or contradictory."""
    tokenizer = _read_tokenizer(checkpoint)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    size = max(vocab.values(), default=-1) + 1
    if not 1 <= size <= _MOST_TOKENS:
        raise CheckpointError(f"{checkpoint.path}/{TOKENIZER}: has {size} tokens, expected 1..{_MOST_TOKENS}")
    fields = _object(checkpoint, _CONFIG)
    templates = _chat_templates(checkpoint, fields.pop("chat_template", None))
    config = _metadata(checkpoint, _CONFIG, fields)
    generation = _metadata(checkpoint, _GENERATION, _object(checkpoint, _GENERATION))
    _check_added(config, fields.get("added_tokens_decoder"), tokenizer)
    before, behind = _frame(checkpoint, tokenizer)
    bos = _one(checkpoint, "before", before)
    if bos is None:
        bos = _special(config, "bos", vocab)
    eos = _special(config, "eos", vocab)
    last = _one(checkpoint, "behind", behind)
    stops = _stop_tokens(checkpoint.metadata, generation, eos, vocab, size, tokenizer)
    eos = last if last is not None else eos if eos is not None else next(iter(stops), None)
    return TokenizerFiles(
        tokenizer_json=tokenizer.to_str(),
        chat_template=templates.get("default"),
        tool_template=templates.get("tool_use"),
        vocab_size=size,
        bos=bos,
        eos=eos,
        add_bos=bool(before),
        add_eos=bool(behind),
        stop_tokens=stops,
        notes=tuple(_notes(config, generation, before, bos, behind, eos)),
        recommended=_recommended(generation),
    )


def _read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    path = checkpoint.path / TOKENIZER
    raw = checkpoint.text(TOKENIZER, _LONGEST_TOKENIZER)
    if raw is None:
        other = next((name for name in _OTHERS if (checkpoint.path / name).exists()), None)
        if other is None:
            raise CheckpointError(f"{path}: does not exist; download it")
        raise CheckpointError(
            f"{path}: does not exist, and imp reads no {other}; make it with transformers: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        tokenizer = Tokenizer.from_buffer(raw)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception, and its panics are not even that
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}") from None
    # Both belong to training: a prompt must not be cut, nor be made longer.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _check_decoder(checkpoint, tokenizer)
    if getattr(tokenizer.model, "dropout", None):
        raise CheckpointError(f"{path}: model.dropout is {tokenizer.model.dropout}, expected null: it cuts at random")
    return tokenizer


def _check_decoder(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """CheckpointError unless tokens are spelled in one of the two ways that are turned into bytes one by one."""
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder is not None else {}
    steps = decoder.get("decoders", [decoder])
    kinds = [step.get("type", "nothing") for step in steps]
    if kinds == ["ByteLevel"]:
        return
    spaces = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and steps[0] == spaces and steps[3:] in ([], [strip]):
        return
    raise CheckpointError(
        f"{checkpoint.path}/{TOKENIZER}: decoder is {', '.join(kinds)}, expected ByteLevel (byte-level BPE) or "
        "Replace, ByteFallback, Fuse (SentencePiece BPE); imp reads no other tokenizers"
    )


def _frame(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a text: its post-processor decides."""
    try:
        bare = tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.encode("a", add_special_tokens=True).ids
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise CheckpointError(f"{checkpoint.path}/{TOKENIZER}: cannot encode: {_first_line(error)}") from None
    for at in range(len(whole) - len(bare) + 1):
        if bare and whole[at : at + len(bare)] == bare:
            return whole[:at], whole[at + len(bare) :]
    raise CheckpointError(f"{checkpoint.path}/{TOKENIZER}: its post_processor changes the text's own tokens")


def _one(checkpoint: Checkpoint, where: str, tokens: list[int]) -> int | None:
    """The token that stands before or behind a text, if there is one."""
    if len(tokens) > 1:
        raise CheckpointError(
            f"{checkpoint.path}/{TOKENIZER}: its post_processor puts {len(tokens)} tokens {where} a text; imp puts one"
        )
    return tokens[0] if tokens else None


def _first_line(error: BaseException) -> str:
    return visible(str(error).partition("\n")[0][:200])


def _object(checkpoint: Checkpoint, name: str) -> dict[str, object]:
    """A JSON object of the folder; empty where there is no such file."""
    raw = checkpoint.text(name, LONGEST_FILE)
    return {} if raw is None else parse_object(raw, f"{checkpoint.path / name}: the file")


def _metadata(checkpoint: Checkpoint, name: str, fields: Mapping[str, object]) -> Metadata:
    path = checkpoint.path / name
    return Metadata(path, keys_and_values(fields, path))


def _chat_templates(checkpoint: Checkpoint, given: object) -> dict[str, str]:
    """Templates by name; "default" is the usual one."""
    found = _named_templates(f"{checkpoint.path / _CONFIG}: chat_template", given)
    old = _object(checkpoint, _OLD_TEMPLATE).get("chat_template")
    found |= _named_templates(f"{checkpoint.path / _OLD_TEMPLATE}: chat_template", old)
    for name, file in (("default", _TEMPLATE), ("tool_use", _TOOL_TEMPLATE)):
        if (raw := checkpoint.text(file, LONGEST_FILE)) is not None:
            try:
                found[name] = raw.decode()
            except UnicodeDecodeError:
                raise CheckpointError(f"{checkpoint.path / file}: is not UTF-8; download it again") from None
    return found


def _named_templates(where: str, given: object) -> dict[str, str]:
    if given is None:
        return {}
    entries = [{"name": "default", "template": given}] if isinstance(given, str) else given
    named: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else [None]:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str) or name in named:
            raise CheckpointError(f"{where} must be a text, or a list of different names and their templates")
        named[name] = template
    return named


def _check_added(config: Metadata, added: object, tokenizer: Tokenizer) -> None:
    """CheckpointError if the two files call a token differently."""
    for index in added if isinstance(added, dict) else ():
        if not (index.isascii() and index.isdigit() and len(index) < 9):
            raise CheckpointError(f"{config.path}: added_tokens_decoder has {shown_name(index)}, expected a token's id")
        key = f"added_tokens_decoder.{index}.content"
        text = config.string(key)
        known = tokenizer.id_to_token(int(index))
        if known != text:
            has = "has no such token" if known is None else f"calls it {known[:60]!r}"
            raise config.wrong(key, f"what {TOKENIZER} has: it {has}")


def _special(config: Metadata, name: str, vocab: Mapping[str, int]) -> int | None:
    key = f"{name}_token.content" if f"{name}_token.content" in config else f"{name}_token"
    if key not in config:
        return None
    text = config.string(key)
    if text not in vocab:
        raise config.wrong(key, f"a token of {TOKENIZER}")
    return vocab[text]


def _stop_tokens(
    model: Metadata, generation: Metadata, eos: int | None, vocab: Mapping[str, int], size: int, tokenizer: Tokenizer
) -> tuple[int, ...]:
    """generation_config.json is the authority; without it what the others call the end; else what is known by name."""
    key = "eos_token_id"
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content: vocab[token.content] for token in added if token.special}
    if key in generation:
        return with_calls(set(generation.one_or_more(key, maximum=size - 1)), special)
    named = set(model.one_or_more(key, maximum=size - 1)) if key in model else set()
    if eos is not None:
        named.add(eos)
    return with_calls(named, special) if named else ends_of_reply(special, named)


def _recommended(generation: Metadata) -> dict[str, float | bool]:
    found: dict[str, float | bool] = {}
    for key, (least, most) in _RECOMMENDED.items():
        if key in generation:
            found[key] = generation.number(key, minimum=least, maximum=most)
    if "top_k" in generation:
        found["top_k"] = generation.integer("top_k", maximum=_LARGEST_TOP_K)
    if "do_sample" in generation:
        found["do_sample"] = generation.boolean("do_sample")
    return found


def _notes(
    config: Metadata, generation: Metadata, before: list[int], bos: int | None, behind: list[int], eos: int | None
) -> list[str]:
    notes = []
    for name, put, token in (("bos", before, bos), ("eos", behind, eos)):
        key = f"add_{name}_token"
        if key in config and config.boolean(key) != bool(put) and token is not None:
            does = "puts one" if put else "puts none"
            notes.append(f"{config.path}: {key} is {config.shown(key)}, but {TOKENIZER} {does}; it counts")
    notes += [f"{generation.path}: {key} is not followed" for key in _NOT_FOLLOWED if key in generation]
    return notes
