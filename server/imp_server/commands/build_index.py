"""What lies beside the artifacts that `imp build` makes: index.json, index.html, SHA256SUMS."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imp_runtime.version import VERSION
from imp_server.commands.build_list import NAME_OF_ENTRY

INDEX = "index.json"
SUMS = "SHA256SUMS"
INDEX_VERSION = 1


def write_index(folder: Path, models: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> None:
    """Write what says which artifacts there are, and which could not be made, and why."""
    document = {
        "version": INDEX_VERSION,
        "imp": VERSION,
        "models": models,
        "failed": [{"name": name, "error": error} for name, error in failed.items()],
    }
    put(folder / SUMS, "".join(f"{each['sha256']}  {each['file']}\n" for each in models))
    put(folder / "index.html", page(models))
    put(folder / INDEX, json.dumps(document, indent=1) + "\n")


def before(path: Path) -> dict[str, dict[str, Any]]:
    """The records of the last build by name; none where there is no index of this version."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["version"] != INDEX_VERSION:
            return {}
        models = {each["name"]: each for each in document["models"]}
        return {name: each for name, each in models.items() if NAME_OF_ENTRY.fullmatch(name)}  # files are called so
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def put(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def page(models: Sequence[Mapping[str, Any]]) -> str:
    """The index as HTML."""
    rows = []
    for each in models:
        speeds = each["predicted_decode_tokens_per_second"].items()
        said = ", ".join(f"{speed:,.0f} tok/s on {card}" for card, speed in speeds)
        cells = [each["model"], each["quant"], ", ".join(each["targets"]), f"{each['bytes']:,}", said]
        cells += [each["licence"] or "not said", each["sha256"]]
        link = f'<a href="{html.escape(each["file"])}">{html.escape(each["name"])}</a>'
        rows.append(f"<tr><td>{link}{''.join(f'<td>{html.escape(cell)}' for cell in cells)}")
    head = "".join(
        f"<th>{c}" for c in ("name", "model", "format", "targets", "bytes", "predicted", "licence", "SHA-256")
    )
    body = "\n".join(rows)
    return f'<!doctype html><meta charset="utf-8"><title>Models</title>\n<table><tr>{head}\n{body}\n</table>\n'
