"""`imp launch`: the environment in which an agent uses this server instead of its maker's."""

from __future__ import annotations

import enum
import json
import os
import shlex
from typing import Annotated

import typer

from imp_server.remote.client import Client, ServedModel

NAME = "launch"


class Agent(enum.StrEnum):
    """A client that `imp launch` knows."""

    CLAUDE = "claude"
    CODEX = "codex"


def command(
    agent: Annotated[Agent, typer.Argument(help="The agent.")],
    url: Annotated[str, typer.Option(metavar="URL", help="The server.")] = "http://127.0.0.1:8080",
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The server's API key. Default: $IMP_API_KEY.")
    ] = None,
) -> None:
    """Print the shell lines that start an agent with a running server: eval "$(imp launch claude)"."""
    key = api_key or os.environ.get("IMP_API_KEY")
    with Client(url, key) as client:
        model = client.model()
        print("\n".join(LINES[agent](client.url, model, key)))


def claude(url: str, model: ServedModel, key: str | None) -> list[str]:
    """Claude Code: Anthropic's API, one model for all of its roles, and headers that stay the same between turns."""
    variables = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_AUTH_TOKEN": key or "imp",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model.name,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model.name,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model.name,
        "ANTHROPIC_DEFAULT_FABLE_MODEL": model.name,
        "CLAUDE_CODE_SUBAGENT_MODEL": model.name,
        "CLAUDE_CODE_DISABLE_1M_CONTEXT": "1",  # else its default model counts as one with a million tokens
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off",
    }
    if model.context is not None:
        # For names that do not begin with "claude-"; CLAUDE_CODE_AUTO_COMPACT_WINDOW is never below 100,000.
        variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(model.context)
    return [*_exports(variables), f"# then: claude --model {shlex.quote(model.name)}"]


def codex(url: str, model: ServedModel, key: str | None) -> list[str]:
    """Codex: a provider on the command line, so that its own config.toml stays as it is."""
    provider = {"name": "imp", "base_url": f"{url}/v1", "wire_api": "responses", "env_key": "IMP_API_KEY"}
    # TOML's basic strings are JSON's as long as no character is escaped as a surrogate pair.
    table = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in provider.items())
    settings = ['model_provider="imp"', f"model_providers.imp={{ {table} }}"]
    if model.context is not None:
        settings.append(f"model_context_window={model.context}")
        # Its own limit leaves a tenth for the answer; one that meets the end of the context ends the conversation.
        settings.append(f"model_auto_compact_token_limit={model.context * 3 // 4}")
    options = " ".join(f"-c {shlex.quote(setting)}" for setting in settings)
    return [
        *_exports({"IMP_API_KEY": key or "imp"}),
        f"alias codex-imp={shlex.quote(f'codex {options} --model {shlex.quote(model.name)}')}",
        "# then: codex-imp",
    ]


def _exports(variables: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


LINES = {Agent.CLAUDE: claude, Agent.CODEX: codex}
