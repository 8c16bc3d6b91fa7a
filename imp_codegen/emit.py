"""Programs of kernels to text. The only importer of jinja2 in the compiler.

A model file's texts would be code here, so none is printed: no name, no key, no label, only what imp itself chose.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np

from imp_codegen import device_code
from imp_codegen.kernels.kernel_spec import Argument, Arguments, Config, Cpp, KernelSpec, Param, ProgramSpec, Scalar
from imp_runtime.plan import Kernel, Program
from imp_runtime.version import VERSION

_OWN = re.compile(r"[A-Za-z0-9_ .,:;<>(){}\[\]*&=/+·→-]*", re.ASCII)
_COMMENT_MARKS = ("//", "/*", "*/")


@dataclass(frozen=True, slots=True)
class Entry:
    """A distinct kernel: its kernel (that of the first launch), symbol, and the comment above it."""

    kernel: KernelSpec
    symbol: str
    alias: str
    comment: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """One target's source and the programs that launch its entries.

    `own` and `shared` are the source once more in two pieces, without comments: `shared` has the ends of steps, which
    models with the same vocabulary and context have in common, `own` the rest.
    """

    source: str
    own: str
    shared: str
    programs: tuple[Program, ...]
    fallback: tuple[Program, ...] = ()


def emit(
    programs: tuple[ProgramSpec, ...],
    architecture: str,
    quant: str,
    target: str,
    fallback: tuple[ProgramSpec, ...] = (),
) -> Emitted:
    """One source for all programs; kernels of the same type and parameters share an entry. Deterministic.

    `architecture`, `quant` and `target` are names of imp's own, as everything in a kernel is.
    """
    symbols: dict[tuple[object, ...], str] = {}
    launches: dict[str, list[str]] = {}
    first: dict[str, KernelSpec] = {}
    used: dict[str, int] = {}
    finished = []
    for program in (*programs, *fallback):
        kernels = []
        for kernel in program.kernels:
            key = (kernel.stage, kernel.threads, kernel.shared_bytes, _shape(kernel.args))
            if key not in symbols:
                number = used.get(kernel.entry, 0)
                used[kernel.entry] = number + 1
                symbols[key] = f"{kernel.entry}_{number}"
                first[symbols[key]] = kernel
            launches.setdefault(symbols[key], []).append(f"{program.name} {kernel.name}")
            kernels.append(_kernel(kernel, symbols[key]))
        finished.append(
            Program(program.name, program.rows, tuple(kernels), program.worth, program.first_us, program.last_us)
        )
    entries = tuple(
        Entry(kernel, symbol, f"{symbol}_t", _comment(kernel, launches[symbol])) for symbol, kernel in first.items()
    )
    values: dict[str, object] = {"architecture": architecture, "quant": quant, "target": target, "version": VERSION}
    template = _environment().get_template("model.cu.j2")

    def text(entries: Sequence[Entry], digest: str = "") -> str:
        headers = sorted({header for entry in entries for header in entry.kernel.headers} | {"stage/sampling"})
        return template.render(**values, headers=headers, entries=entries, digest=digest)

    def piece(entries: Sequence[Entry]) -> str:
        kept = [line for line in text(entries).splitlines(keepends=True) if not line.startswith("//")]
        return "".join(kept) if entries else ""

    ends = [entry for entry in entries if _is_end(entry.kernel)]
    rest = [entry for entry in entries if not _is_end(entry.kernel)]
    digest = hashlib.sha256(text(entries).encode()).hexdigest()[:16]
    count = len(programs)
    return Emitted(text(entries, digest), piece(rest), piece(ends), tuple(finished[:count]), tuple(finished[count:]))


def _is_end(kernel: KernelSpec) -> bool:
    """Whether only vocabulary, context and card decide the kernel's type."""
    return any(isinstance(arg, Config) and arg.struct == "SampleConfig" for arg in kernel.stage.args)


def own_text(value: object) -> object:
    """`value` as a source may hold it. ValueError for a text that could be another's, or end a comment or a line."""
    if isinstance(value, str) and (not _OWN.fullmatch(value) or any(mark in value for mark in _COMMENT_MARKS)):
        raise ValueError(f"{value!r} is not a text of imp's own and must not be in a source")
    return value


def _shape(argument: Argument) -> object:
    """An argument without its bindings: what two launches must share to share an entry."""
    match argument:
        case None:
            return None
        case Param():
            return argument.ctype
        case Mapping():
            return tuple((field, _shape(part)) for field, part in argument.items())
        case _:
            return tuple(map(_shape, argument))


def _declarations(args: Arguments) -> Iterator[str]:
    """The lines that declare an argument struct's fields."""
    for field, part in args.items():
        parts = part if isinstance(part, tuple) else (part,)
        count = f"[{len(parts)}]" if isinstance(part, tuple) else ""
        if len(set(map(_shape, parts))) != 1:
            raise ValueError(f"the elements of the argument {field} are not alike")
        match parts[0]:
            case Param(ctype):
                yield f"{ctype} {field}{count};"
            case Mapping():
                yield "struct {"
                yield from (f"  {line}" for line in _declarations(parts[0]))
                yield f"}} {field}{count};"
            case _:
                raise ValueError(f"the argument {field} is null, or an array of arrays")


def _pointers(argument: Argument) -> int:
    """How many an argument has, null ones too."""
    match argument:
        case None | Param():
            return 1
        case Mapping():
            return sum(map(_pointers, argument.values()))
        case _:
            return sum(map(_pointers, argument))


def _kernel(kernel: KernelSpec, symbol: str) -> Kernel:
    return Kernel(
        name=kernel.name,
        entry=symbol,
        grid=kernel.grid,
        block=kernel.threads,
        shared_bytes=kernel.shared_bytes,
        overlap=kernel.overlap,
        resident=kernel.resident,
        args=tuple(param.binding for _, param in kernel.params()),
        ops=kernel.ops,
        outputs=kernel.outputs,
        phases=kernel.phases,
        weight_bytes=kernel.weight_bytes,
        other_bytes=kernel.other_bytes,
        cache_reads=kernel.cache_reads,
        tiles=kernel.tiles,
        flops=kernel.flops,
    )


def _comment(kernel: KernelSpec, launches: list[str]) -> tuple[str, ...]:
    """What the kernel does and moves, and where it is launched."""
    kinds = [op.split(" ")[0] for op in kernel.ops]
    ops = f"{len(kinds)} operations" if kernel.resident else " → ".join(kinds) or kernel.stage.name
    places = launches[0] if len(launches) == 1 else f"{launches[0]} and {len(launches) - 1} more"
    return (
        f"{ops} · {kernel.weight_bytes:,} bytes of weights, {kernel.other_bytes:,} of other data a launch",
        f"{places} · grid {kernel.grid}, {kernel.threads} threads",
    )


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{np.float32(value)!s}f" if isinstance(value, float) else str(value)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(device_code.templates()),
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
    environment.filters["declarations"] = lambda args: tuple(_declarations(args))
    environment.filters["pointers"] = _pointers
    environment.tests["param"] = lambda value: isinstance(value, Param)
    return environment
