"""Fields that clients are known to send and that nothing here reads, with the values that ask for nothing.

A request is answered as it was asked, or not at all: a field that is neither read by the body's class nor listed here
is refused by name. This is the one list of exceptions; `ANY` means that no value of the field changes the answer.
Fields within another have its name and a dot before theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import JsonValue

ANY: Final = None
_ORDER: Sequence[JsonValue] = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc")

HARMLESS: Mapping[str, Sequence[JsonValue] | None] = {
    # Who asks and what for: for the books of a service; nothing is stored here.
    **dict.fromkeys(("user", "safety_identifier", "metadata", "client_metadata", "request_id"), ANY),
    **dict.fromkeys(("store", "service_tier", "priority", "inference_geo", "anthropic_version", "speed"), ANY),
    # How to compute it: caches and slots change when an answer comes, not what it says; no context is ever shifted.
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "cache_control", "cache_prompt", "id_slot"), ANY),
    **dict.fromkeys(("n_cache_reuse", "n_keep", "n_discard", "backend_sampling", "prediction", "keep_alive"), ANY),
    # Room in the context: what is sent is read whole, or refused as too long.
    **dict.fromkeys(("context_management", "truncation"), ANY),
    # Hints to models of OpenAI and Anthropic, which no template reads.
    **dict.fromkeys(("verbosity", "text.verbosity", "output_config.effort", "reasoning.summary"), ANY),
    **dict.fromkeys(("reasoning.generate_summary", "reasoning.context"), ANY),
    # What describes a format; `strict` is how every schema is kept, padding of a stream hides lengths from onlookers.
    **dict.fromkeys((f"{name}.{key}" for name in ("response_format.json_schema", "text.format") for key in
                     ("strict", "description", "name")), ANY),
    "thinking.display": ANY,  # reasoning is always shown whole
    "stream_options.include_obfuscation": ANY,
    "stream_options.continuous_usage_stats": (False,),
    # Samplers that are not here, switched off; the order of those that are.
    "samplers": ([*_ORDER, "temperature"], ["dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]),
    "top_n_sigma": (-1, 0),
    "dynatemp_range": (0,),
    "dynatemp_exponent": ANY,  # acts with the range only
    "adaptive_target": (-1,),
    "adaptive_decay": ANY,  # acts with the target only
    "tfs_z": (1,),
    "top_a": (0,),
    "smoothing_factor": (0,),
    "no_repeat_ngram_size": (0,),
    "length_penalty": (1,),
    "min_keep": (0, 1),
    "n_indent": (0,),
    "t_max_predict_ms": (0, -1),
    "penalize_nl": (False,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    # Input and output that are not here, asked for not at all.
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "bad_words": ([],),
    "documents": ([],),
    "lora": ([],),
    "logits_processors": ([],),
    "mcp_servers": ([],),
    "betas": ANY,  # the features that they name are fields of the body
    "prompt_logprobs": (False,),
    "echo": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "reasoning_control": (False,),
    "parse_tool_calls": (True,),
}  # fmt: skip


def asks_for_nothing(name: str, value: JsonValue) -> bool:
    """Whether the field may stand in a request although nothing reads it; null counts as absent."""
    if value is None:
        return True
    if name not in HARMLESS:
        return False
    values = HARMLESS[name]
    return values is ANY or any(_same(value, each) for each in values)


def _same(a: JsonValue, b: JsonValue) -> bool:
    """Equality of JSON, where 0 is not false."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
