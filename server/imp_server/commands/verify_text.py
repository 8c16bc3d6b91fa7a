"""`imp verify --text`: whether a model's answers hang together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imp_runtime.text import visible

if TYPE_CHECKING:
    from imp_server.coherence.gate import Check

TOKENS = 96


def verify_text(file: Path, target: str | None, max_tokens: int | None, *, random_weights: bool, as_json: bool) -> bool:
    """Ask, print, and say whether all has passed."""
    from imp_runtime.artifact import Artifact
    from imp_runtime.engine import Engine
    from imp_server.coherence.gate import checks_of, examine, form_check
    from imp_server.console.progress import progress
    from imp_server.model import Model

    with progress(transient=True) as report:
        with Model.load(file, target=target, progress=report) as model:
            found = examine(model, max_tokens or TOKENS, report)
            checks = checks_of(found)
            where = f"{model.engine.target} on {model.engine.device_name}"
            both = bool(model.engine.runner.target.fallback)
        if both:  # one after the other: the weights may fit once only
            graph = Artifact.open(file).in_graph_form(model.engine.target)
            with Model(Engine.load(graph, target=model.engine.target, progress=report)) as other:
                checks.append(form_check(found, other, report))
        else:
            checks.append(form_check(found, None, report))
    failed = [check for check in checks if check.faults and not (random_weights and check.kind == "text")]
    if as_json:
        listed = [{**dataclasses.asdict(check), "verdict": check.verdict} for check in checks]
        print(json.dumps({"model": str(file), "where": where, "passed": not failed, "checks": listed}, indent=2))
    else:
        _print(checks, f"{file.name}, {where}", failed)
    return not failed


def _print(checks: Sequence[Check], title: str, failed: Sequence[Check]) -> None:
    from imp_server.console.tables import show, table

    rows = [
        (check.name, check.asks, check.verdict, f"{check.looked_at}", f"{len(check.faults) or ''}") for check in checks
    ]
    show(table(title, ("check", "asks that", "", "answers", "faults"), rows, right=3))
    for check in checks:
        for fault in check.faults:
            print(visible(f"{check.verdict}, {check.name}: {fault.prompt}, {fault.sampling}: {fault.what}"))
    if failed:
        print(f"failed: {', '.join(check.name for check in failed)}")
    elif any(check.faults for check in checks):
        print("passed, but for the text of random weights")
    else:
        print("all checks pass")
