"""imp.conf: where a value comes from, and that every mistake is told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from imp_server.cli import execute
from imp_server.operation.config import Config, ConfigError
from imp_server.operation.settings import Setting, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a home without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("IMP_CONFIG", "XDG_CONFIG_HOME", "IMP_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def sources(settings: tuple[Setting, ...]) -> Mapping[str, str]:
    return {each.name: each.source for each in settings}


def test_defaults() -> None:
    config, settings = load(None, environment={})
    assert config == Config()
    assert (config.server.host, config.server.port, config.api.key) == (("127.0.0.1",), 8080, ())
    assert set(sources(settings).values()) == {"default"}


def test_the_first_file_that_exists_is_the_only_one(tmp_path: Path) -> None:
    home = write(tmp_path / "home" / ".config" / "imp" / "imp.conf", "[server]\nport = 1\nhost = 'home'\n")
    environment = {"HOME": str(tmp_path / "home")}
    assert load(None, environment=environment)[0].server.port == 1
    write(tmp_path / "imp.conf", "[server]\nport = 2\n")
    config, settings = load(None, environment=environment)
    assert (config.server.port, config.server.host) == (2, ("127.0.0.1",))
    assert sources(settings)["server.port"] == "imp.conf"
    named = write(tmp_path / "named.toml", "[server]\nport = 3\n")
    assert load(None, environment=environment | {"IMP_CONFIG": str(named)})[0].server.port == 3
    assert load(home, environment=environment | {"IMP_CONFIG": str(named)})[0].server.port == 1


def test_what_stands_over_what(tmp_path: Path) -> None:
    file = write(tmp_path / "x.toml", "[server]\nport = 1\nhost = 'file'\nalias = ['a']\n[limits]\nconcurrent = 5\n")
    environment = {"IMP_SERVER_PORT": "2", "IMP_SERVER_ALIAS": "b, c", "IMP_LIMITS_CONCURRENT": "6"}
    config, settings = load(file, ["server.port=3", "limits.rate=5/second"], {"server.port": 4}, environment)
    assert (config.server.port, config.server.host, config.server.alias) == (4, ("file",), ("b", "c"))
    assert (config.limits.concurrent, config.limits.rate) == (6, "5/second")
    origin = sources(settings)
    assert [origin[f"server.{key}"] for key in ("port", "host", "alias")] == ["--port", str(file), "$IMP_SERVER_ALIAS"]
    assert (origin["limits.concurrent"], origin["limits.rate"]) == ("$IMP_LIMITS_CONCURRENT", "--set")


def test_values_of_every_type(tmp_path: Path) -> None:
    text = (
        '[server]\nany_model = true\nping_seconds = 3\n[api]\nkey = "one"\ncors_origins = ["https://a", "https://b"]\n'
    )
    config, _ = load(write(tmp_path / "x.toml", text), ["server.web=false", 'server.alias=["x,y"]', "log.level=debug"])
    assert (config.server.any_model, config.server.web, config.server.alias) == (True, False, ("x,y",))
    assert isinstance(config.server.ping_seconds, float)
    assert (config.api.key, config.api.cors_origins) == (("one",), ("https://a", "https://b"))
    origins = ("localhost", "*", "null", "http://[::1]:80", "https://a-b.example:8443", "chrome-extension://abc")
    assert load(None, [f"api.cors_origins={','.join(origins)}"], environment={})[0].api.cors_origins == origins
    assert load(None, environment={"IMP_API_KEY": "k1,k2"})[0].api.key == ("k1", "k2")
    assert load(None, ["server.host=127.0.0.1, ::1"], environment={})[0].server.host == ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1", ["x.toml", "server.prot", "did you mean server.port?"]),
        ("[servr]\nport = 1", ["x.toml", "[servr]", "did you mean server?"]),
        ("[api]\nport = 1", ["api.port", "did you mean server.port?"]),
        ("port = 1", ["no section [port]"]),
        ("server = 1", ["server must be a section"]),
        ("[server]\nport = '8080'", ["server.port is '8080'", "whole number"]),
        ("[server]\nport = true", ["server.port is True", "whole number"]),
        ("[server]\nport = 65536", ["server.port is 65536", "from 0 to 65535"]),
        ("[server]\nping_seconds = nan", ["ping_seconds is nan", "at least 0.1"]),
        ("[server]\nhost = []", ["server.host is empty", "127.0.0.1"]),
        ("[server]\nalias = [1]", ["server.alias is [1]", "list of texts"]),
        ("[limits]\nrate = 'often'", ["limits.rate is 'often'", "60/minute"]),
        ("[log]\nlevel = 'loud'", ["log.level is 'loud'", "debug or info"]),
        ("[server\n", ["x.toml is not valid TOML"]),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path / "x.toml", text), environment={})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_mistakes_elsewhere(tmp_path: Path) -> None:
    for arguments, words in (
        ({"assignments": ["server.port"]}, "there is no ="),
        ({"assignments": ["srv.port=1"]}, "did you mean server.port?"),
        ({"assignments": ["server.port=x"]}, "--set server.port: server.port is 'x'"),
        ({"environment": {"IMP_SERVER_PROT": "1"}}, "$IMP_SERVER_PROT: there is no setting server.prot"),
        ({"environment": {"IMP_CONFIG": str(tmp_path / "none")}}, "No such file"),
        ({"flags": {"server.port": 70000}}, "--port: server.port is 70000"),
        ({"flags": {"api.key": ("",)}}, "--api-key: api.key has an empty text; give one"),
        ({"flags": {"server.alias": ("a", "")}}, "--alias: server.alias has an empty text"),
        *(
            ({"assignments": [f"api.cors_origins={origin}"]}, f"api.cors_origins has {origin!r}; it must be localhost")
            for origin in (
                "ui.example",
                "https://ui.example/",
                "https://ui.example/x",
                "https://UI.example",
                "*.example",
            )
        ),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            load(None, **{"environment": {}, **arguments})  # type: ignore[arg-type]  # a table of keywords
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(write(tmp_path / "x.toml", "a = " + "[" * 100_000), environment={})


def test_show_as_a_table_and_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("IMP_API_KEY", "very-secret")
    assert execute(["config", "show", "--set", "server.port=1234", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "very-secret" not in shown
    entries = json.loads(shown)
    assert entries["server.port"] == {"value": 1234, "from": "--set"}
    assert entries["api.key"] == {"value": ["***"], "from": "$IMP_API_KEY"}
    assert execute(["config", "show"]) == 0
    shown = capsys.readouterr().out
    assert "very-secret" not in shown
    row = next(line for line in shown.splitlines() if "server.port" in line)
    assert row.split()[:3] == ["server.port", "8080", "default"]
    assert len(
        [line for line in shown.splitlines() if re.search(r"(server|sampling|api|limits|log)\.\w", line)]
    ) == len(entries)


def test_a_mistake_is_one_line_and_no_secret_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["config", "show", "--set", "api.key=[1, 'very-secret']"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("imp: error: --set api.key")
    assert error.count("\n") == 1
    assert "very-secret" not in error


def test_every_setting_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "server.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \|", text, re.MULTILINE))
    _, settings = load(None, environment={})
    assert set(rows) == {each.name for each in settings}
    for each in settings:
        value = each.value
        value = ", ".join(value) if isinstance(value, tuple) else value
        shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        assert rows[each.name].strip("`") == shown, each.name
        assert each.help in text
