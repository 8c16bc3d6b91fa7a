"""Generation options as people give them, merged with the model's defaults into SamplingParams."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.sampling import SamplingParams


class Options(TypedDict, total=False):
    """What a caller may set; what is absent or None comes from the model's defaults, then from SamplingParams."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    seed: int | None
    ignore_eos: bool | None
    stop: str | Sequence[str] | None


_RECOMMENDED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def sampling_params(options: Options, defaults: SamplingParams) -> SamplingParams:
    """SamplingParams of a request. Raises ImpError naming the field and value that is out of range or no number."""
    return SamplingParams(
        temperature=_number("temperature", options.get("temperature"), defaults.temperature),
        top_k=_integer("top_k", options.get("top_k"), defaults.top_k),
        top_p=_number("top_p", options.get("top_p"), defaults.top_p),
        min_p=_number("min_p", options.get("min_p"), defaults.min_p),
        repetition_penalty=_number(
            "repetition_penalty", options.get("repetition_penalty"), defaults.repetition_penalty
        ),
        frequency_penalty=_number("frequency_penalty", options.get("frequency_penalty"), defaults.frequency_penalty),
        presence_penalty=_number("presence_penalty", options.get("presence_penalty"), defaults.presence_penalty),
        seed=options.get("seed"),
        max_tokens=_integer("max_tokens", options.get("max_tokens"), defaults.max_tokens),
        ignore_eos=bool(options.get("ignore_eos") or defaults.ignore_eos),
    )


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


def recommended(config: Mapping[str, object]) -> SamplingParams:
    """The sampling that the model's makers recommend; greedy where they say nothing or `"do_sample": false`."""
    if config.get("do_sample") is False:
        return SamplingParams()
    return sampling_params(cast(Options, {name: config.get(name) for name in _RECOMMENDED}), SamplingParams())


def _integer(name: str, value: object, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise ImpError(f"{name} is {value!r}; it must be an integer")
    return value


def _number(name: str, value: object, default: float) -> float:
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ImpError(f"{name} is {value!r}; it must be a number")
    return float(value)
