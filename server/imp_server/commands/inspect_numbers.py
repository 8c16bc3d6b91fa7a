"""Numbers of an artifact that `imp inspect`, `imp diff` and `imp build` tell: predicted speed, bytes of the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imp_codegen.cards import Card, cards
from imp_codegen.checkpoint import WeightFile
from imp_codegen.predict import launch_us
from imp_codegen.recipe import Recipe
from imp_codegen.targets import find_target, targets
from imp_runtime.artifact import RECIPE, Artifact
from imp_runtime.paging import Paging
from imp_runtime.plan import BLOCK_TOKENS, Plan, Program, TargetPlan
from imp_server.commands.inspect_weights import Launch


def card_of(target: TargetPlan) -> Card | None:
    """The card that a target's code was sized for, or one of its size; None for targets that this version lacks."""
    if target.target not in targets():
        return None
    return cards().get(target.card) or find_target(f"{target.target}:{target.sms}").card


def launches_of(program: Program, card: Card | None) -> list[Launch]:
    """With predicted times of a full run at the beginning of a sequence."""
    known = card if card is not None and card.speed is not None else None
    return [Launch(k, launch_us(known, k, program.rows) if known else None) for k in program.kernels]


def decode_speed(programs: Mapping[str, Sequence[Launch]]) -> float | None:
    """Tokens per second of step_r1 as predicted."""
    times = [launch.us for launch in programs.get("step_r1", []) if launch.us is not None]
    return 1e6 / sum(times) if times else None


def prompt_speed(target: TargetPlan, programs: Mapping[str, Sequence[Launch]]) -> float | None:
    """Tokens per second of a prompt's rows as predicted."""
    chunks = (program for program in target.programs if program.name.startswith("forward_r") and program.rows > 1)
    rows = max(chunks, key=lambda program: program.rows, default=None)
    times = [launch.us for launch in programs[rows.name] if launch.us is not None] if rows else []
    return 1e6 * rows.rows / sum(times) if rows and times else None


def cache_bytes(plan: Plan) -> dict[str, int]:
    """What a sequence takes of the KV cache: by the token; and where layers have windows, that much for these."""
    paging = Paging.of(plan)
    most = [paging.most(group) for group, window in enumerate(paging.windows) if window]
    return {
        "kv_bytes_per_token": paging.windows.count(0) * plan.block_bytes // BLOCK_TOKENS,
        "kv_bytes_for_windows": sum(most) * plan.block_bytes,
        "kv_bytes_of_context": paging.blocks(paging.longest) * plan.block_bytes,
    }


def to_link(artifact: Artifact) -> tuple[WeightFile, ...]:
    """The files whose weights a thin artifact lacks."""
    return Recipe.from_json(artifact.read(RECIPE)).files if artifact.thin else ()
