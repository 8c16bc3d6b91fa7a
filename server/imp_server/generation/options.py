"""Generation options as people give them, merged with the model's defaults into SamplingParams."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict, cast

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.sampling import SamplingParams


class Options(TypedDict, total=False):
    """What a caller may set; what is absent or None comes from the model's defaults, then from SamplingParams.

    `logit_bias` is by token id, or by a text, which stands for each of its tokens.
    """

    max_tokens: int | None
    min_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    repeat_last_n: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_penalty_last_n: int | None
    dry_sequence_breakers: Sequence[Sequence[int]] | None
    mirostat: int | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    xtc_probability: float | None
    xtc_threshold: float | None
    logit_bias: Mapping[int | str, float] | None
    top_logprobs: int | None
    sampled_logprobs: bool | None
    stop_tokens: Sequence[int] | None
    seed: int | None
    ignore_eos: bool | None
    stop: str | Sequence[str] | None


_RECOMMENDED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_NUMBERS = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "dry_multiplier", "dry_base", "mirostat_tau", "mirostat_eta", "xtc_probability", "xtc_threshold",
)  # fmt: skip
_INTEGERS = (
    "max_tokens", "min_tokens", "top_k", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n", "mirostat",
    "top_logprobs", "seed",
)  # fmt: skip


def sampling_params(options: Options, defaults: SamplingParams) -> SamplingParams:
    """SamplingParams of a request. Raises ImpError naming the field and value that is out of range or no number."""
    given: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    changes: dict[str, object] = {}
    for name in _NUMBERS:
        if name in given:
            changes[name] = _number(name, given[name])
    for name in _INTEGERS:
        if name in given:
            changes[name] = _integer(name, given[name])
    if options.get("ignore_eos"):
        changes["ignore_eos"] = True
    if options.get("sampled_logprobs"):
        changes["sampled_logprobs"] = True
    if bias := options.get("logit_bias"):
        changes["logit_bias"] = tuple(sorted(bias.items()))
    if breakers := options.get("dry_sequence_breakers"):
        changes["dry_sequence_breakers"] = tuple(tuple(tokens) for tokens in breakers)
    if stops := options.get("stop_tokens"):
        changes["stop_tokens"] = tuple(stops)
    return replace(defaults, **changes)  # type: ignore[arg-type]  # the values have been checked above


def stop_strings(options: Options) -> tuple[str, ...]:
    """The stop strings of a request: one string or several."""
    stop = options.get("stop") or ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def generation_config(artifact: Artifact) -> Mapping[str, object]:
    """`generation.json` of the artifact, in the form of Hugging Face's `generation_config.json`; empty without one."""
    if not artifact.has("generation.json"):
        return {}
    try:
        stored = json.loads(artifact.read("generation.json"))
    except (ValueError, RecursionError) as error:
        raise ImpError(f"generation.json in the artifact is not valid JSON: {error}") from None
    if not isinstance(stored, dict):
        raise ImpError("generation.json in the artifact must be an object; compile the model again")
    return stored


def recommended(config: Mapping[str, object], *, temperature: float = 0.0) -> SamplingParams:
    """The sampling that the model's makers recommend; `temperature` where they say nothing.

    `"do_sample": false` is greedy.
    """
    if config.get("do_sample") is False:
        return SamplingParams()
    stored = cast(Options, {name: config.get(name) for name in _RECOMMENDED})
    return sampling_params(stored, SamplingParams(temperature=temperature))


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ImpError(f"{name} is {value!r}; it must be an integer")
    return value


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ImpError(f"{name} is {value!r}; it must be a number")
    return float(value)
