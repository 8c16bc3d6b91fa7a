"""`imp config show`: the settings in force and where each came from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from imp_server.commands.serve import Assignments, ConfigFile
from imp_server.console.tables import show, table
from imp_server.operation.config import Value
from imp_server.operation.settings import Setting, load

app = typer.Typer(name="config", no_args_is_help=True, help="The settings of imp serve.")


@app.callback()
def _group() -> None:
    """Keeps `show` a command of its own while it is the only one."""


@app.command("show")
def command(
    config_file: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show every setting, its value and where it came from. API keys are not shown."""
    _, settings = load(config_file, assignments or ())
    if as_json:
        entries = {each.name: {"value": _hidden(each), "from": each.source} for each in settings}
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    rows = [(each.name, _text(_hidden(each)), each.source, each.help) for each in settings]
    show(table("", ("setting", "value", "from", ""), rows, right=9))


def _hidden(setting: Setting) -> Value:
    if setting.secret and isinstance(setting.value, tuple):
        return tuple("***" for _ in setting.value)
    return setting.value


def _text(value: Value) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
