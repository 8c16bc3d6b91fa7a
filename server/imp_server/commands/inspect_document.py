"""What `imp inspect --json` prints: all that the tables show, in numbers that are not rounded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from imp_codegen.cards import Card
from imp_runtime.artifact import Artifact
from imp_runtime.plan import Program, TargetPlan
from imp_server.commands.inspect_numbers import cache_bytes, decode_speed, prompt_speed, to_link
from imp_server.commands.inspect_weights import Kind, Launch

_FIELDS = (
    *("model", "architecture", "quant", "parameters", "vocab", "hidden", "layers", "context", "slots", "ledgers"),
    *("decode_weight_bytes", "rounding", "prefill"),
)


def document(
    artifact: Artifact,
    target: TargetPlan,
    card: Card | None,
    programs: Mapping[str, Sequence[Launch]],
    weights: Sequence[Kind],
) -> dict[str, object]:
    """The document of an artifact, with the programs of `target` as predicted for `card`."""
    plan = artifact.plan
    return {
        "file": str(artifact.path),
        **{name: getattr(plan, name) for name in _FIELDS},
        "metadata": dict(artifact.metadata),
        "weights_hash": None if artifact.thin else artifact.weights_hash,
        "thin": artifact.thin,
        "weights_to_link": [dataclasses.asdict(file) for file in to_link(artifact)],
        "kv": plan.state[0].format,
        **cache_bytes(plan),
        "contents": dict(artifact.names()),
        "weights_planes": len(plan.planes),
        "weights_bytes": sum(plane.nbytes for plane in plan.planes),
        "targets": {each.target: _target(each) for each in plan.targets},
        "target": target.target,
        "gpu": card.name if card else None,
        "predicted_for": card.basis if card and card.speed else None,
        "predicted_decode_tokens_per_second": decode_speed(programs),
        "predicted_prompt_tokens_per_second": prompt_speed(target, programs),
        "weights": [_kind(kind) for kind in weights],
        "programs": {program.name: _program(program, programs[program.name]) for program in target.programs},
    }


def _target(target: TargetPlan) -> dict[str, object]:
    return {
        "card": target.card,
        "multiprocessors": target.sms,
        "form": target.form,
        "reason": target.reason,
        "graph_where_no_room": bool(target.fallback),
    }


def _kind(kind: Kind) -> dict[str, object]:
    return {
        "name": kind.name,
        "format": kind.format,
        "layout": kind.layout,
        "count": kind.count,
        "bytes": kind.nbytes,
        "kernels": {of: {"entries": use.entries, "predicted_us": use.us} for of, use in kind.uses.items()},
    }


def _program(program: Program, launches: Sequence[Launch]) -> dict[str, object]:
    times = [launch.us for launch in launches if launch.us is not None]
    return {
        "rows": program.rows,
        "worth_from_sequences": program.worth or None,
        "bytes": sum(launch.kernel.weight_bytes + launch.kernel.other_bytes for launch in launches),
        "flops": sum(launch.kernel.flops for launch in launches),
        "predicted_us": sum(times) if times else None,
        "kernels": [_launch(launch) for launch in launches],
    }


def _launch(launch: Launch) -> dict[str, object]:
    kernel = launch.kernel
    return {
        "kernel": kernel.name,
        "entry": kernel.entry,
        "ops": kernel.ops,
        "grid": kernel.grid,
        "block": kernel.block,
        "shared_bytes": kernel.shared_bytes,
        "weight_bytes": kernel.weight_bytes,
        "other_bytes": kernel.other_bytes,
        "flops": kernel.flops,
        "predicted_us": launch.us,
    }
