"""`imp.conf`: the settings of `imp serve`, and where each value came from.

The file is the first that exists of `--config`, `$IMP_CONFIG`, `./imp.conf`, `~/.config/imp/imp.conf` (TOML). Over it
stand environment variables (`IMP_SERVER_PORT` is `server.port`), over those `--set section.key=value` and the flags.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_type_hints

from limits import parse as parse_rate

from imp_runtime.errors import ImpError

LOCALHOST = "localhost"  # as an origin: every page of this machine, at whatever port
# As browsers write them (https://fetch.spec.whatwg.org/#origin-header): lower case, no path, no port that is the usual.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/:?#@\[\]A-Z]+)(:[0-9]{1,5})?|null")
_DURATION = re.compile(r"([0-9]{1,6})([smh])")
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


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as `imp config show` lists it; `source` says in words where `value` came from."""

    name: str
    value: Value
    source: str
    help: str
    secret: bool


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a setting may be."""

    name: str
    types: tuple[type, ...]
    optional: bool
    least: float | None
    most: float | None
    choices: tuple[str, ...]


SECTIONS: Mapping[str, type] = {
    "server": ServerConfig,
    "sampling": SamplingConfig,
    "api": ApiConfig,
    "limits": LimitsConfig,
    "log": LogConfig,
}


def seconds(duration: str) -> int:
    """The seconds of a time like 90s, 10m or 2h, as a setting has it."""
    found = _DURATION.fullmatch(duration)
    assert found is not None, duration
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def load(
    file: Path | None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Value] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Config, tuple[Setting, ...]]:
    """The settings in force, and each with its origin.

    `assignments` are `section.key=value`, `flags` map `section.key` to what a flag of the command line gave (None: the
    flag was not given). Raises ConfigError naming the file, variable or flag, the key and the value.
    """
    environment = os.environ if environment is None else environment
    kinds = _kinds()
    values: dict[str, tuple[Value, str]] = {}
    if (path := _find(file, environment)) is not None:
        for name, value in _read(path).items():
            kind = _kind(kinds, name, str(path))
            values[name] = (_checked(kind, value, str(path)), str(path))
    for variable, text in sorted(environment.items()):
        if (setting := _setting_of(variable)) is not None:
            kind = _kind(kinds, setting, f"${variable}")
            values[setting] = (_checked(kind, _from_text(kind, text), f"${variable}"), f"${variable}")
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: there is no =; write --set section.key=value")
        source = f"--set {name}"  # without the value: it may be a key
        kind = _kind(kinds, name.strip(), source)
        values[kind.name] = (_checked(kind, _from_text(kind, text.strip()), source), "--set")
    for name, value in (flags or {}).items():
        if value is not None:
            flag = name.removeprefix("server.").removeprefix("sampling.").replace(".", "-").replace("_", "-")
            flag = f"--{flag}"
            values[name] = (_checked(kinds[name], value, flag), flag)
    sections = {}
    for section, cls in SECTIONS.items():
        given = {key: values[f"{section}.{key}"][0] for key in _keys(cls) if f"{section}.{key}" in values}
        sections[section] = cls(**given)
    config = Config(**sections)
    return config, tuple(_settings(config, values))


def _settings(config: Config, values: Mapping[str, tuple[Value, str]]) -> list[Setting]:
    found = []
    for section, cls in SECTIONS.items():
        for each in fields(cls):
            name = f"{section}.{each.name}"
            value: Value = getattr(getattr(config, section), each.name)
            source = values[name][1] if name in values else "default"
            found.append(Setting(name, value, source, each.metadata["help"], each.metadata["secret"]))
    return found


def _find(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if environment.get("IMP_CONFIG"):
        return Path(environment["IMP_CONFIG"])
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    candidates = (Path("imp.conf"), Path(home) / "imp" / "imp.conf")
    return next((path for path in candidates if path.is_file()), None)


def _read(path: Path) -> dict[str, object]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    found: dict[str, object] = {}
    for section, table in document.items():
        if section not in SECTIONS:
            raise ConfigError(f"{path}: there is no section [{section}]; {_nearest(section, list(SECTIONS))}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a section: [{section}] on a line of its own")
        found |= {f"{section}.{key}": value for key, value in table.items()}
    return found


def _setting_of(variable: str) -> str | None:
    """`IMP_SERVER_PORT` -> `server.port`; None for a variable that is no setting."""
    for section in SECTIONS:
        prefix = f"IMP_{section.upper()}_"
        if variable.startswith(prefix):
            return f"{section}.{variable.removeprefix(prefix).lower()}"
    return None


def _keys(cls: type) -> list[str]:
    return [each.name for each in fields(cls)]


def _kinds() -> dict[str, _Kind]:
    kinds = {}
    for section, cls in SECTIONS.items():
        hints = get_type_hints(cls)
        for each in fields(cls):
            types = _plain_types(hints[each.name])
            name = f"{section}.{each.name}"
            rules = (each.metadata["least"], each.metadata["most"], each.metadata["choices"])
            optional = type(None) in types
            kinds[name] = _Kind(name, tuple(t for t in types if t is not type(None)), optional, *rules)
    return kinds


def _plain_types(hint: Any) -> tuple[type, ...]:  # what annotations are made of has no better type
    if hasattr(hint, "__origin__") and hint.__origin__ is tuple:
        return (tuple,)
    return tuple(hint.__args__) if hasattr(hint, "__args__") else (hint,)


def _kind(kinds: Mapping[str, _Kind], name: str, source: str) -> _Kind:
    if name not in kinds:
        raise ConfigError(f"{source}: there is no setting {name}; {_nearest(name, list(kinds))}")
    return kinds[name]


def _nearest(name: str, names: Sequence[str]) -> str:
    moved = [each for each in names if each.rpartition(".")[2] == name.rpartition(".")[2]]  # in the wrong section
    close = moved[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def _from_text(kind: _Kind, text: str) -> object:
    """What a variable or `--set` means: text as it is, lists with commas or as TOML, else a TOML value."""
    if kind.types == (str,):
        return text
    if kind.types == (tuple,) and not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _checked(kind: _Kind, value: object, source: str) -> Value:
    """`value` as the setting holds it. Raises ConfigError."""
    if isinstance(value, str) and kind.types == (tuple,):
        value = [value]
    if isinstance(value, int) and not isinstance(value, bool) and kind.types == (float,):
        value = float(value)
    if kind.types == (tuple,) and isinstance(value, list | tuple) and "" in value:
        raise ConfigError(f"{source}: {kind.name} has an empty text; give one that is not, or leave it away")
    result = _typed(kind, value)
    if result is None and not (value is None and kind.optional):
        raise _wrong(kind, value, source, f"must be {_words(kind)}")
    if isinstance(result, int | float) and kind.least is not None:
        most = math.inf if kind.most is None else kind.most
        if not kind.least <= result <= most:  # so written that NaN is refused too
            rule = f"at least {kind.least:g}" if kind.most is None else f"from {kind.least:g} to {kind.most:g}"
            raise _wrong(kind, value, source, f"must be {rule}")
    if kind.choices and result not in kind.choices:
        raise _wrong(kind, value, source, f"must be {' or '.join(kind.choices)}")
    if kind.name == "limits.rate" and isinstance(result, str):
        try:
            parse_rate(result)
        except ValueError:
            raise _wrong(kind, value, source, "must be a number per time, like 60/minute") from None
    if kind.name == "server.idle_unload" and isinstance(result, str) and not _DURATION.fullmatch(result):
        raise _wrong(kind, value, source, "must be a time with its unit, like 90s, 10m or 2h")
    if kind.name == "server.host" and result == ():
        raise ConfigError(f"{source}: server.host is empty; give an address, like 127.0.0.1")
    if kind.name == "api.cors_origins" and isinstance(result, tuple):
        for origin in result:
            if origin not in ("*", LOCALHOST) and not _ORIGIN.fullmatch(origin):
                rule = f"must be {LOCALHOST}, * or origins as browsers send them, like https://ui.example"
                raise ConfigError(f"{source}: {kind.name} has {origin!r}; it {rule}")
    return result


def _typed(kind: _Kind, value: object) -> Value:
    """`value` if it has the setting's type, else None."""
    if kind.types == (tuple,):
        if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            return tuple(value)
        return None
    if isinstance(value, bool) and kind.types != (bool,):
        return None
    return value if isinstance(value, kind.types) and isinstance(value, str | int | float) else None


def _wrong(kind: _Kind, value: object, source: str, rule: str) -> ConfigError:
    shown = "given" if kind.name == "api.key" else repr(value)
    return ConfigError(f"{source}: {kind.name} is {shown}; it {rule}")


def _words(kind: _Kind) -> str:
    words = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        tuple: "a list of texts",
    }
    return words[kind.types[0]]
