"""Where the values of settings come from, and how they are read: `imp.conf`, the environment, the command line.

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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from limits import parse as parse_rate

from imp_server.operation.config import DURATION, LOCALHOST, SECTIONS, Config, ConfigError, Value

# As browsers write them (https://fetch.spec.whatwg.org/#origin-header): lower case, no path, no port that is the usual.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/:?#@\[\]A-Z]+)(:[0-9]{1,5})?|null")


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
    if kind.name == "server.idle_unload" and isinstance(result, str) and not DURATION.fullmatch(result):
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
