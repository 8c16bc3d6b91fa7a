"""The command line. Each command is a module in `imp_server.commands`; errors become one line here."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from imp_runtime.errors import ImpError
from imp_runtime.text import visible
from imp_runtime.version import VERSION

COMMANDS = (
    "compile", "link", "build", "pull", "run", "chat", "serve", "launch", "inspect", "diff",
    "verify", "perplexity", "bench", "tune", "config",
)  # fmt: skip


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command line, with the command that `arguments` name, or all: to import all takes longer than most do."""
    app = typer.Typer(
        name="imp",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Compiles one language model into one program, and runs it.",
    )
    app.callback()(_options)
    first = next((each for each in arguments if not each.startswith("-")), None)
    for name in (first,) if first in COMMANDS else COMMANDS:
        command = importlib.import_module(f"imp_server.commands.{name}")
        if hasattr(command, "app"):
            app.add_typer(command.app)
        else:
            app.command(command.NAME)(command.command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imp {VERSION}")
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """`--debug` is taken out of the arguments by `execute`, so that it may stand anywhere; it is here for `--help`."""


def execute(arguments: Sequence[str]) -> int:
    """Run one command; its exit code: 0, 1 (a difference, or a model that failed), 2 (error), 130 (Ctrl-C)."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    rest = [argument for i, argument in enumerate(arguments) if i >= end or argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    try:
        code = application(rest)(rest, prog_name="imp", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; without this Python complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, typer.Abort) as error:
        if debug:
            traceback.print_exc()
        return _complain(error)


def _complain(error: Exception) -> int:
    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, typer.TyperException):
        message = error.format_message().rstrip(".")
        if not message:  # imp without arguments has shown its help
            return 2
        message += "; see imp --help"
    elif isinstance(error, ImpError):
        message = str(error)
    elif isinstance(error, MemoryError):
        message = "out of memory; close other programs or use a machine with more"
    elif isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename is not None else ""
        message = f"{name}{error.strerror or error}"
    else:
        what = " ".join(str(error).split())
        message = f"internal error: {type(error).__name__}: {what}; imp --debug ... shows where"
    print(f"imp: error: {visible(' '.join(message.split()))}", file=sys.stderr)
    return 2
