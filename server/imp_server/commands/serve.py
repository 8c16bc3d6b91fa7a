"""`imp serve`: the HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from imp_runtime.artifact import Artifact
from imp_server.commands import arguments as a
from imp_server.operation.config import Config, Value
from imp_server.operation.settings import load

NAME = "serve"
log = logging.getLogger("imp")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings. Default: ./imp.conf, ~/.config/imp/imp.conf.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="A setting; may be repeated.")
]


def command(
    file: a.File,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; several with commas, or repeated.  [default: 127.0.0.1]"
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [default: 8080]")] = None,
    alias: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name for the model; may be repeated.")
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Answer whatever model a request names, instead of 404.")
    ] = False,
    api_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Let in only who has a key; may be repeated.")
    ] = None,
    api_key_file: Annotated[str | None, typer.Option(metavar="FILE", help="Keys, one a line.")] = None,
    think_budget: Annotated[
        int | None, typer.Option(metavar="N", help="Most reasoning tokens of an answer, unless the request says.")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(metavar="FILE", help="A Jinja chat template to use in place of the model's.")
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option(metavar="auto|on|off", help="Think before answers, unless the request says.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(metavar="mean|cls|last|none", help="What an embedding is made of.  [default: the file's]"),
    ] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="0 is greedy. Default: the model's.")] = None,
    top_k: a.TopK = None,
    top_p: a.TopP = None,
    min_p: a.MinP = None,
    seed: a.Seed = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", metavar="N", help="Most tokens of an answer.")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that speak HTTP.  [default: 1]")] = None,
    target: a.Target = None,
    kv_tokens: a.KvTokens = None,
    kv_share: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, metavar="P", help="Most of the free memory for the KV cache.")
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Keep an answer's last bits whoever else is served: no steps together."),
    ] = False,
    idle_unload: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Give the GPU back when nobody has asked for so long (90s, 10m, 2h)."),
    ] = None,
    weights_from: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Weights for a thin FILE: a .gguf file, a folder or hf:org/repo[:QUANT]."),
    ] = None,
    config_file: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Serve the model over HTTP for OpenAI's and Anthropic's clients, with a chat page at /. See imp config show."""
    flags: dict[str, Value] = {
        "server.host": tuple(each.strip() for part in host for each in part.split(",")) if host else None,
        "server.port": port,
        "server.alias": tuple(alias) if alias else None,
        "server.any_model": any_model or None,
        "server.think_budget": think_budget,
        "server.chat_template": chat_template,
        "server.reasoning": reasoning,
        "server.pooling": pooling,
        "sampling.temperature": temperature,
        "sampling.top_k": top_k,
        "sampling.top_p": top_p,
        "sampling.min_p": min_p,
        "sampling.seed": seed,
        "sampling.max_tokens": max_tokens,
        "server.workers": workers,
        "server.target": target,
        "server.kv_tokens": kv_tokens,
        "server.kv_share": kv_share,
        "server.deterministic": deterministic or None,
        "server.idle_unload": idle_unload,
        "api.key": tuple(api_key) if api_key else None,
        "api.key_file": api_key_file,
    }
    config, _ = load(config_file, assignments or (), flags)
    if weights_from is not None:
        from imp_server.commands.link import linked

        file = linked(file, weights_from)
    serve(file, config)


def serve(file: Path, config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises ImpError when the file, the port or the model cannot be had."""
    from imp_server.api.http import listen
    from imp_server.operation import logs
    from imp_server.operation.chat_template import read_template
    from imp_server.processes.supervisor import Supervisor

    artifact = Artifact.open(file)  # a file that is no artifact is told before the port is taken
    read_template(config.server)
    logs.configure(config.log)
    with contextlib.ExitStack() as held:
        workers, port = config.server.workers, config.server.port
        listeners: list[list[socket.socket]] = [[] for _ in range(workers)]
        for host in config.server.host:
            if workers > 1:  # whether somebody else has the port shows only where it is not to be shared
                with listen(host, port) as alone:
                    port = alone.getsockname()[1]
            for each in listeners:
                each.append(held.enter_context(listen(host, port, shared=workers > 1)))
                port = each[0].getsockname()[1]  # where any was asked for, all take the same
        addresses = [f"http://{_printable(host)}:{port}" for host in config.server.host]
        print(f"imp: {artifact.plan.model} at {', '.join(f'{each}/v1' for each in addresses)}", file=sys.stderr)
        if config.server.web:
            print(f"imp: chat at {addresses[0]}/", file=sys.stderr)
        if not (config.api.key or config.api.key_file or all(map(_is_local, config.server.host))):
            log.warning("anybody who reaches this port may use the model; --api-key or --api-key-file asks for a key")
        ended_by = asyncio.run(Supervisor(file, artifact.plan.model, config, listeners).run())
    if ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    if ended_by == signal.SIGHUP:
        sys.exit(128 + signal.SIGHUP)


def _printable(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_local(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")
