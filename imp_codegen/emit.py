"""Drafts to text. The only importer of jinja2 in the compiler.

A model file's texts would be code here, so none is printed: no name, no key, no label, only what imp itself chose.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from imp_codegen.kernels.draft import Config, Cpp, Draft, Param, ProgramDraft, Scalar
from imp_runtime.plan import Kernel, Program
from imp_runtime.version import VERSION


def templates() -> Path:
    """The folder with what the CUDA compiler sees: in a checkout beside this package, in a wheel inside it."""
    inside = Path(__file__).parent / "templates"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "templates"


_OWN = re.compile(r"[A-Za-z0-9_ .,:;<>(){}*&=/+·→-]*", re.ASCII)
_COMMENT_MARKS = ("//", "/*", "*/")


@dataclass(frozen=True, slots=True)
class Entry:
    """A distinct kernel: its draft (that of the first launch), symbol, and the comment above it."""

    draft: Draft
    symbol: str
    alias: str
    comment: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """One target's source and the programs that launch its entries."""

    source: str
    programs: tuple[Program, ...]
    fallback: tuple[Program, ...] = ()


def emit(
    programs: tuple[ProgramDraft, ...],
    architecture: str,
    quant: str,
    target: str,
    fallback: tuple[ProgramDraft, ...] = (),
) -> Emitted:
    """One source for all programs; kernels of the same type and parameters share an entry. Deterministic.

    `architecture`, `quant` and `target` are names of imp's own, as everything in a draft is.
    """
    symbols: dict[tuple[object, ...], str] = {}
    launches: dict[str, list[str]] = {}
    first: dict[str, Draft] = {}
    used: dict[str, int] = {}
    finished = []
    for program in (*programs, *fallback):
        kernels = []
        for draft in program.drafts:
            key = (draft.stage, draft.threads, draft.shared_bytes, _shape(draft.call))
            if key not in symbols:
                number = used.get(draft.entry, 0)
                used[draft.entry] = number + 1
                symbols[key] = f"{draft.entry}_{number}"
                first[symbols[key]] = draft
            launches.setdefault(symbols[key], []).append(f"{program.name} {draft.name}")
            kernels.append(_kernel(draft, symbols[key]))
        finished.append(Program(program.name, program.tokens, tuple(kernels)))
    entries = tuple(
        Entry(draft, symbol, f"{symbol}_t", _comment(draft, launches[symbol])) for symbol, draft in first.items()
    )
    headers = sorted({header for draft in first.values() for header in draft.headers} | {"stage/sampling"})
    values: dict[str, object] = {
        "architecture": architecture,
        "quant": quant,
        "target": target,
        "version": VERSION,
        "headers": headers,
        "entries": entries,
    }
    template = _environment().get_template("model.cu.j2")
    body = template.render(**values, digest="")
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    count = len(programs)
    return Emitted(template.render(**values, digest=digest), tuple(finished[:count]), tuple(finished[count:]))


def own_text(value: object) -> object:
    """`value` as a source may hold it. ValueError for a text that could be another's, or end a comment or a line."""
    if isinstance(value, str) and (not _OWN.fullmatch(value) or any(mark in value for mark in _COMMENT_MARKS)):
        raise ValueError(f"{value!r} is not a text of imp's own and must not be in a source")
    return value


def _shape(call: tuple[Param | tuple[Param, ...], ...]) -> tuple[object, ...]:
    """A call without its bindings: what two launches must share to share an entry."""
    return tuple(
        (item.ctype, item.name, item.binding is None) if isinstance(item, Param) else _shape(item) for item in call
    )


def _kernel(draft: Draft, symbol: str) -> Kernel:
    return Kernel(
        name=draft.name,
        entry=symbol,
        grid=draft.grid,
        block=draft.threads,
        shared_bytes=draft.shared_bytes,
        overlap=draft.overlap,
        resident=draft.resident,
        args=tuple(p.binding for p in draft.params() if p.binding is not None),
        ops=draft.ops,
        outputs=draft.outputs,
        phases=draft.phases,
        weight_bytes=draft.weight_bytes,
        other_bytes=draft.other_bytes,
        flops=draft.flops,
    )


def _comment(draft: Draft, launches: list[str]) -> tuple[str, ...]:
    """What the kernel does and moves, and where it is launched."""
    kinds = [op.split(" ")[0] for op in draft.ops]
    ops = f"{len(kinds)} operations" if draft.resident else " → ".join(kinds) or draft.stage.name
    places = launches[0] if len(launches) == 1 else f"{launches[0]} and {len(launches) - 1} more"
    return (
        f"{ops} · {draft.weight_bytes:,} bytes of weights, {draft.other_bytes:,} of other data a launch",
        f"{places} · grid {draft.grid}, {draft.threads} threads",
    )


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{np.float32(value)!s}f" if isinstance(value, float) else str(value)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=own_text,
    )
    environment.filters["literal"] = _literal
    environment.tests["cpp_type"] = lambda value: isinstance(value, Cpp)
    environment.tests["config_value"] = lambda value: isinstance(value, Config)
    environment.tests["param"] = lambda value: isinstance(value, Param)
    return environment
