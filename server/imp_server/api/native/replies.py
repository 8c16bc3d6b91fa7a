"""llama-server's own completions: the only file that writes their JSON. Input are the events.

Shapes from llama.cpp's tools/server/README.md, POST /completion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from imp_runtime.sampling import SamplingParams
from imp_server.api.serialiser import PING, sse
from imp_server.errors import ApiError, openai_error
from imp_server.frontend import Frontend
from imp_server.generation.events import Event, Finished, Text, TokenLogprob
from imp_server.generation.reply import Reply
from imp_server.generation.request import Request
from imp_server.generation.timings import PromptProgress, Timings

_SAMPLERS: JsonValue = ["penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request says about the form of the answer.

    `n_predict` is the limit that it asked for, -1 for none. `silent`: it asked for no tokens, only for the prompt to be
    computed. `probabilities`: of as many tokens, `after` the samplers or before them. `fields`: those of the answer,
    with a slash for one within another; all if empty. `several`: the answer is a list, for several prompts or choices.
    """

    n_predict: int = -1
    silent: bool = False
    stream: bool = False
    timed: bool = False
    return_tokens: bool = False
    probabilities: int = 0
    after: bool = False
    fields: Sequence[str] = ()
    several: bool = False


class NativeCompletion:
    """/completion and /infill: the answers to `requests`."""

    ping = PING

    def __init__(self, model: Frontend, name: str, requests: Sequence[Request], wishes: Wishes) -> None:
        self._model = model
        self._name = name
        self._requests = requests
        self._wishes = wishes
        self._timings: dict[int, Timings] = {}
        self._tokens = [0] * len(requests)
        self._newline = [False] * len(requests)

    def chunk(self, index: int, event: Event) -> bytes:
        """The chunk of one event, if it has one."""
        if isinstance(event, Timings):
            self._timings[index] = event
        elif isinstance(event, PromptProgress):
            return sse(self._partial(index, "", ()) | {"prompt_progress": event.to_json()})
        elif isinstance(event, Text) and not self._wishes.silent:
            self._tokens[index] += len(event.tokens)
            self._newline[index] |= "\n" in event.text
            body = self._partial(index, event.text, event.tokens)
            return sse(body | self._probabilities(event.logprobs))
        elif isinstance(event, Finished):
            last = self._last(index, "", (), event, self._timings.get(index), newline=self._newline[index])
            return sse(self._chosen(last))
        return b""

    def end(self) -> bytes:
        """Nothing: the last chunk says that it is the last."""
        return b""

    def error(self, error: ApiError) -> bytes:
        """An error object."""
        return sse(openai_error(error))

    def whole(self, replies: Sequence[Reply]) -> Mapping[str, JsonValue] | Sequence[JsonValue]:
        """The answer that is not streamed."""
        answers = [self._chosen(self.answer(index, reply)) for index, reply in enumerate(replies)]
        return list(answers) if self._wishes.several else answers[0]

    def answer(self, index: int, reply: Reply) -> dict[str, JsonValue]:
        """The answer to one request."""
        text, tokens = ("", ()) if self._wishes.silent else (reply.text, tuple(reply.tokens))
        shown = tokens if self._wishes.return_tokens else ()
        body = self._last(index, text, shown, reply.finished, reply.timings, newline="\n" in text)
        return body | (self._probabilities(reply.logprobs) if reply.logprobs and not self._wishes.silent else {})

    def _partial(self, index: int, text: str, tokens: Sequence[int]) -> dict[str, JsonValue]:
        body: dict[str, JsonValue] = {
            "index": index,
            "content": text,
            "tokens": list(tokens),
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._tokens[index],
            "tokens_evaluated": len(self._requests[index].prompt),
        }
        timings = self._timings.get(index)
        return body | {"timings": timings.to_json()} if self._wishes.timed and timings is not None else body

    def _last(
        self,
        index: int,
        text: str,
        tokens: Sequence[int],
        finished: Finished,
        timings: Timings | None,
        *,
        newline: bool,
    ) -> dict[str, JsonValue]:
        request = self._requests[index]
        limit = finished.reason == "length"
        held = finished.prompt_tokens + finished.completion_tokens
        return {
            "index": index,
            "content": text,
            "tokens": list(tokens),
            "id_slot": -1,
            "stop": True,
            "model": self._name,
            "tokens_predicted": 0 if self._wishes.silent else finished.completion_tokens,
            "tokens_evaluated": finished.prompt_tokens,
            "generation_settings": generation_settings(self._model, request.params, self._wishes, request.stop),
            "prompt": self._model.tokenizer.decode(request.prompt, special=True),
            "has_new_line": newline,
            "truncated": limit and held >= self._model.context,
            "stop_type": "limit" if limit else "word" if finished.stop_string is not None else "eos",
            "stopping_word": finished.stop_string or "",
            "tokens_cached": finished.cached_tokens,
            "timings": timings.to_json() if timings is not None else {},
        }

    def _chosen(self, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """The fields that were asked for; one within another keeps its path as its name."""
        if not self._wishes.fields:
            return body
        found: dict[str, JsonValue] = {}
        for field in self._wishes.fields:
            value: JsonValue = body
            for name in field.split("/"):
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                found[field] = value
        return found

    def _probabilities(self, logprobs: Sequence[TokenLogprob]) -> dict[str, JsonValue]:
        if not logprobs:
            return {}
        many = "top_probs" if self._wishes.after else "top_logprobs"
        found: list[JsonValue] = []
        for each in logprobs:
            best: list[JsonValue] = [
                self._token(index, *named) for index, named in zip(each.top_ids, each.top, strict=True)
            ]
            found.append(self._token(each.id, each.token, each.bytes, each.logprob) | {many: best})
        return {"completion_probabilities": found}

    def _token(self, index: int, text: str, raw: bytes, logprob: float) -> dict[str, JsonValue]:
        value = {"prob": math.exp(logprob)} if self._wishes.after else {"logprob": logprob}
        return {"id": index, "token": text, "bytes": list(raw), **value}


def generation_settings(
    model: Frontend, params: SamplingParams, wishes: Wishes, stop: Sequence[str] = ()
) -> dict[str, JsonValue]:
    """`generation_settings` of an answer; those of samplers that are not here say that they are off."""
    biases: list[JsonValue] = [{"token": token, "bias": bias} for token, bias in params.logit_bias]
    if params.ignore_eos:
        biases += [{"token": token, "bias": None} for token in model.plan.stop_tokens]
    return {
        "seed": -1 if params.seed is None else params.seed,
        "temperature": params.temperature,
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "top_n_sigma": -1.0,
        "xtc_probability": params.xtc_probability,
        "xtc_threshold": params.xtc_threshold,
        "typical_p": params.typical_p,
        "repeat_last_n": params.repeat_last_n,
        "repeat_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "dry_multiplier": params.dry_multiplier,
        "dry_base": params.dry_base,
        "dry_allowed_length": params.dry_allowed_length,
        "dry_penalty_last_n": params.dry_penalty_last_n,
        "mirostat": params.mirostat,
        "mirostat_tau": params.mirostat_tau,
        "mirostat_eta": params.mirostat_eta,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.0,
        "stop": list(stop),
        "max_tokens": wishes.n_predict,
        "n_predict": wishes.n_predict,
        "n_keep": 0,
        "n_discard": 0,
        "ignore_eos": params.ignore_eos,
        "stream": wishes.stream,
        "logit_bias": biases,
        "n_probs": wishes.probabilities,
        "min_keep": 0,
        "samplers": _SAMPLERS,
        "timings_per_token": wishes.timed,
        "post_sampling_probs": wishes.after,
        "lora": [],
    }
