"""The settings of `imp serve`: sections, keys, defaults, and what each may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from imp_runtime.errors import ImpError

LOCALHOST = "localhost"  # as an origin: every page of this machine, at whatever port
DURATION = re.compile(r"([0-9]{1,6})([smh])")
Value: TypeAlias = str | int | float | bool | tuple[str, ...] | None
T = TypeVar("T")


class ConfigError(ImpError):
    """A setting that does not exist or has a value that it cannot have."""


def _setting(
    default: T,
    text: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> T:
    metadata = {"help": text, "least": least, "most": most, "choices": choices, "secret": secret}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Section `[server]`."""

    host: tuple[str, ...] = _setting(("127.0.0.1",), "Addresses to listen on; 0.0.0.0 is every interface.")
    port: int = _setting(8080, "Port to listen on; 0 takes one that is free.", least=0, most=65535)
    alias: tuple[str, ...] = _setting((), "Further names of the model; the first is the one that is shown.")
    any_model: bool = _setting(False, "Answer whatever model a request names, instead of 404.")
    workers: int = _setting(1, "Processes that speak HTTP, on one port.", least=1, most=64)
    target: str | None = _setting(None, "Code to run: sm_120a, sm_90a or sim. Default: this machine's.")
    kv_tokens: int | None = _setting(None, "Size of the KV cache in tokens. Default: what fits.", least=1)
    kv_share: float = _setting(1.0, "Most of the free memory that the KV cache takes.", least=0.01, most=1.0)
    idle_unload: str | None = _setting(None, "Give the GPU back when nobody has asked for so long: 90s, 10m, 2h.")
    prefix_cache: bool = _setting(True, "Do not compute again what earlier prompts began with.")
    deterministic: bool = _setting(False, "Keep an answer's last bits whoever else is served: no steps together.")
    check_weights: bool = _setting(True, "Compare the weights with their checksums while they are loaded.")
    think_budget: int | None = _setting(None, "Most reasoning tokens of an answer, unless the request says.", least=0)
    chat_template: str | None = _setting(None, "A file with a Jinja template to use in place of the model's.")
    reasoning: str = _setting(
        "auto", "Think before answers; auto: as the template has it.", choices=("auto", "on", "off")
    )
    pooling: str | None = _setting(
        None, "What an embedding is made of. Default: as the file has it.", choices=("mean", "cls", "last", "none")
    )
    web: bool = _setting(True, "Serve the chat page at /.")
    metrics: bool = _setting(True, "Answer /metrics.")
    slots: bool = _setting(True, "Answer /slots.")
    trusted_proxies: tuple[str, ...] = _setting((), "Addresses whose X-Forwarded-For and -Proto are believed.")
    ping_seconds: float = _setting(15.0, "Keep-alive comment of a silent stream.", least=0.1)
    hang_seconds: float = _setting(
        60.0, "Time without a sign of life after which the engine or a worker is started anew.", least=2.0
    )
    shutdown_seconds: float = _setting(2.0, "Time that open requests get at the end.", least=0.0, most=4.0)


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """Section `[sampling]`: what requests get that do not say, in place of what the model's makers recommend."""

    temperature: float | None = _setting(None, "0 takes the likeliest token always.", least=0, most=100)
    top_k: int | None = _setting(None, "Keep the so many likeliest tokens; 0 is off.", least=0)
    top_p: float | None = _setting(None, "Keep the likeliest tokens that add up to this; 1 is off.", least=0, most=1)
    min_p: float | None = _setting(None, "Drop tokens below this share of the likeliest; 0 is off.", least=0, most=1)
    repetition_penalty: float | None = _setting(None, "Above 1 discourages repeats; 1 is off.", least=0.01, most=100)
    frequency_penalty: float | None = _setting(None, "Per earlier occurrence; 0 is off.", least=-2, most=2)
    presence_penalty: float | None = _setting(None, "For any earlier occurrence; 0 is off.", least=-2, most=2)
    seed: int | None = _setting(None, "The same seed gives the same tokens. Default: another for each.", least=0)
    max_tokens: int | None = _setting(None, "Most tokens of an answer. Default: as each API has it.", least=1)


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Section `[api]`: who may ask."""

    key: tuple[str, ...] = _setting((), "Keys that are let in. None at all: everybody is.", secret=True)
    key_file: str | None = _setting(None, "A file with one key a line; # begins a comment.")
    cors_origins: tuple[str, ...] = _setting(
        (), 'Web origins that may ask from a browser; "localhost" is this machine\'s at any port, "*" is any.'
    )


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Section `[limits]`: how much is taken on."""

    rate: str | None = _setting(None, 'POST requests per key, or address without one: "60/minute", "5/second".')
    concurrent: int = _setting(64, "Requests that run at the same time.", least=1)
    queue: int = _setting(192, "Requests that may wait; the next gets 429.", least=0)
    body_bytes: int = _setting(32 << 20, "Largest body of a request.", least=1)
    body_values: int = _setting(300_000, "Most JSON values in a body: numbers, texts, lists and so on.", least=1)
    header_seconds: float = _setting(20.0, "Time for the header of a request to come.", least=0.1)
    body_seconds: float = _setting(30.0, "Time for its body, and a second more for every 16 KB.", least=0.1)
    send_seconds: float = _setting(60.0, "Time that a client may take nothing of its answer.", least=0.1)
    request_seconds: float | None = _setting(None, "Longest time of one request, waiting included.", least=0.001)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Section `[log]`."""

    level: str = _setting("info", "Least level that is shown.", choices=("debug", "info", "warning", "error"))
    format: str = _setting("text", "One line for people, or one JSON object a line.", choices=("text", "json"))
    requests: str | None = _setting(None, "Append one JSON object per request to this file.")
    bodies: bool = _setting(False, "Put the bodies of requests and answers into that file too.")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; the defaults are those of a server for one person on this machine."""

    server: ServerConfig = ServerConfig()
    sampling: SamplingConfig = SamplingConfig()
    api: ApiConfig = ApiConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()


SECTIONS: Mapping[str, type] = {
    "server": ServerConfig,
    "sampling": SamplingConfig,
    "api": ApiConfig,
    "limits": LimitsConfig,
    "log": LogConfig,
}


def seconds(duration: str) -> int:
    """The seconds of a time like 90s, 10m or 2h, as a setting has it."""
    found = DURATION.fullmatch(duration)
    assert found is not None, duration
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
