"""`imp inspect`: what an `.impc` holds and how fast it should be. Executes nothing of the file."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from imp_codegen.cards import Card, fast_cards
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.plan import Kernel, Plan, Program, TargetPlan
from imp_runtime.text import visible
from imp_server.commands import arguments as a
from imp_server.commands.inspect_document import document
from imp_server.commands.inspect_numbers import cache_bytes, card_of, decode_speed, launches_of, prompt_speed, to_link
from imp_server.commands.inspect_weights import Kind, Launch, Use, kinds_of, programs_of
from imp_server.console.tables import quantity, show, table

if TYPE_CHECKING:
    from rich.table import Table

NAME = "inspect"


def command(
    file: a.File,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, machine-readable.")] = False,
    gpu: Annotated[
        str | None, typer.Option(metavar="CARD", help="Predict for this card: h200, h100-sxm, rtx-5090, rtx-5080, ...")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="TARGET", help="The target whose programs are shown.")] = None,
    source: Annotated[str | None, typer.Option(metavar="TARGET", help="Print the CUDA C++ emitted for it.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare all of it with its checksums.")] = False,
) -> None:
    """Show a compiled model: numbers, programs, kernels, predicted speed. Never runs its code."""
    artifact = Artifact.open(file, thin=True)
    if check:
        with artifact.compared():
            pass
        print(f"{visible(str(file))}: all {len(artifact.names())} parts are what their checksums say")
        return
    if source is not None:
        artifact.plan.target(source)
        sys.stdout.write(visible(artifact.read(f"source/{source}.cu").decode(errors="replace"), keep="\n\t"))
        return
    card = _card(gpu)
    chosen = _target(artifact.plan, target, card)
    if card is None:
        card = card_of(chosen)
    programs = {program.name: launches_of(program, card) for program in chosen.programs}
    told = programs_of(chosen)
    kinds = kinds_of(artifact.plan, {of: programs[program.name] for of, program in told.items()})
    if as_json:
        print(json.dumps(document(artifact, chosen, card, programs, kinds), indent=2))
        return
    shown = [_summary(artifact), _contents(artifact), _weights(kinds, told)]
    shown += [_program_table(program, programs[program.name], card) for program in chosen.programs]
    show(*shown)
    if card is not None and (speed := decode_speed(programs)) is not None:
        prompt = prompt_speed(chosen, programs)
        print(
            f"predicted for {card.basis}: {speed:,.0f} tok/s at batch 1"
            + (f", {prompt:,.0f} tok/s of a prompt's first chunk" if prompt else "")
        )


def _card(name: str | None) -> Card | None:
    if name is None:
        return None
    if name not in fast_cards():
        raise ImpError(f"--gpu {name} is unknown; known: {', '.join(sorted(fast_cards()))}")
    return fast_cards()[name]


def _target(plan: Plan, name: str | None, card: Card | None) -> TargetPlan:
    """The target asked for, else the one made for the card, else the artifact's first."""
    if name is not None:
        return plan.target(name)
    made_for = [t for t in plan.targets if card is not None and t.target == card.target]
    if not plan.targets:
        raise ImpError("the artifact has no target; compile the model again")
    return (made_for or list(plan.targets))[0]


def _summary(artifact: Artifact) -> Table:
    plan = artifact.plan
    cache = cache_bytes(plan)
    parts = {
        "a token": cache["kv_bytes_per_token"],
        "for windows": cache["kv_bytes_for_windows"],
        "for the whole context": cache["kv_bytes_of_context"],
    }
    rows = [
        ("model", plan.model),
        ("architecture", plan.architecture),
        ("quantisation", plan.weights),
        ("parameters", quantity(plan.parameters, "")),
        ("layers x hidden", f"{plan.layers} x {plan.hidden}"),
        ("vocabulary", f"{plan.vocab:,}"),
        ("context", f"{plan.context:,} tokens"),
        ("sequences at once", f"{plan.slots}, {plan.ledgers} of them with masks, biases, penalties or all logits"),
        (
            "KV cache",
            ", ".join((plan.state[0].format, *(f"{quantity(n, 'B')} {what}" for what, n in parts.items() if n))),
        ),
        ("weights read per token", quantity(plan.decode_weight_bytes, "B")),
        ("targets", ", ".join(t.target for t in plan.targets)),
        *((f"decode on {t.target}", _form(t)) for t in plan.targets),
        *((name.replace("_", " "), value) for name, value in sorted(artifact.metadata.items())),
        *([] if artifact.thin else [("hash of the weights", artifact.weights_hash)]),
        *(("to be linked", f"{f.name}, {f.bytes:,} bytes, SHA-256 {f.sha256}") for f in to_link(artifact)),
    ]
    return table(str(artifact.path), ("", ""), rows, right=2)


def _form(target: TargetPlan) -> str:
    """How decode runs, why, and what becomes of it on another card."""
    said = f"{target.form} ({target.reason}), sized for {target.sms} multiprocessors"
    return f"{said}; a graph on a card without room for all of its CTAs" if target.fallback else said


def _contents(artifact: Artifact) -> Table:
    """Blobs one by one, weights together."""
    blobs = [(name, f"{size:,}") for name, size in artifact.names() if not name.startswith("weights/")]
    planes = artifact.plan.planes
    where = "not here, " if artifact.thin else ""
    weights = (f"weights/ ({where}{len(planes)} planes)", f"{sum(plane.nbytes for plane in planes):,}")
    return table("contents", ("name", "bytes"), [*blobs, weights])


def _weights(weights: list[Kind], programs: dict[str, Program]) -> Table:
    """Which kernels run the matrices, and in how many microseconds of a program's run."""

    def told(use: Use) -> str:
        time = "" if use.us is None else f" {use.us:.1f} us"
        return f"{', '.join(use.entries)}{time}" if use.entries else "-"

    rows = [
        (
            kind.name,
            f"{kind.count}",
            kind.format,
            kind.layout,
            quantity(kind.nbytes, "B"),
            *(told(kind.uses[of]) for of in programs),
        )
        for kind in weights
    ]
    columns = ("weights", "", "format", "layout", "bytes", *(f"{of} ({p.name})" for of, p in programs.items()))
    return table("matrices, and the kernels that run them", columns, rows, right=4)


def _program_table(program: Program, launches: list[Launch], card: Card | None) -> Table:
    """Launches of one entry with the same grid stand in one row, at the place of the first."""
    groups: dict[tuple[str, tuple[int, int, int], int], list[Launch]] = {}
    for launch in launches:
        kernel = launch.kernel
        groups.setdefault((kernel.entry, kernel.grid, kernel.weight_bytes), []).append(launch)
    rows = []
    for (entry, grid, _), group in groups.items():
        kernel = group[0].kernel
        nbytes = kernel.weight_bytes + kernel.other_bytes
        times = [launch.us for launch in group if launch.us is not None]
        rows.append(
            (
                entry,
                kinds(kernel),
                f"{len(group)}",
                "x".join(str(n) for n in grid if n > 1) or "1",
                str(kernel.block),
                quantity(nbytes, "B"),
                quantity(kernel.flops, "FLOP"),
                f"{times[0]:.2f}" if times else "-",
                f"{sum(times):.1f}" if times else "-",
            )
        )
    every = [launch.kernel for launch in launches]
    times = [launch.us for launch in launches if launch.us is not None]
    rows.append(
        (
            "all",
            "",
            str(len(launches)),
            "",
            "",
            quantity(sum(k.weight_bytes + k.other_bytes for k in every), "B"),
            quantity(sum(k.flops for k in every), "FLOP"),
            "",
            f"{sum(times):.1f}" if times else "-",
        )
    )
    title = f"{program.name}: up to {program.rows} rows, {len(launches)} kernels"
    title += f", for steps of {program.worth} sequences and more" if program.worth else ""
    title += f", times predicted for {card.basis}" if card and card.speed else ""
    columns = ("kernel", "ops", "launches", "grid", "threads", "bytes", "work", "us each", "us all")
    return table(title, columns, rows, right=2)


def kinds(kernel: Kernel) -> str:
    """The kinds of a kernel's ops, without the values they make: "RmsNorm, 3 Linear"."""
    count = Counter(op.split()[0] for op in kernel.ops if op.strip())
    return ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in count.items())
