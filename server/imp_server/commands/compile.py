"""`imp compile`: a checkpoint becomes an `.impc`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from imp_codegen.cache import cache_format, cache_formats
from imp_codegen.cards import cards
from imp_codegen.rounding import rounding_named, roundings
from imp_codegen.targets import Target, find_targets, targets
from imp_runtime.device import detect_gpu, detect_target
from imp_runtime.errors import ImpError
from imp_runtime.text import visible
from imp_server.console.tables import show, table

if TYPE_CHECKING:
    from rich.table import Table

    from imp_codegen.checkpoint import Checkpoint
    from imp_codegen.compiler import CompileReport
    from imp_codegen.kernels.form import Wanted
    from imp_codegen.rounding_report import RoundingReport
    from imp_codegen.tune.table import Table as TuningTable
    from imp_runtime.plan import Plan, Prefill

NAME = "compile"
_UNKNOWN_CALLS = (
    "how this model writes its tool calls is not known here: they will come as text, and a request that demands one is "
    "refused"
)


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .gguf file, a folder with config.json and safetensors, or hf:org/repo[:QUANT] on the Hugging Face "
            "Hub (:safetensors for the folder where there are GGUF files, too); with --random-weights a config.json.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.impc", help="The file to write.")],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="T[:CARD],T",
            help="Targets: sm_120a, sm_90a, sim; after a colon a card (rtx-5080, ...) or its multiprocessors. "
            "Default: this machine's GPU, without one sm_120a,sim.",
        ),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Invent the weights: for benchmarks of a shape.")
    ] = False,
    quant: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of random weights. Default: Q8_0.", show_default=False)
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help=f"Round matrices to a smaller format: {', '.join(roundings())}. Default: as the file has them.",
        ),
    ] = None,
    no_kl: Annotated[
        bool, typer.Option("--no-kl", help="With --weights: do not measure what rounding does to predictions.")
    ] = False,
    context: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Longest sequence. Default: the checkpoint's.")
    ] = None,
    kv: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"Format of cached keys and values: {', '.join(cache_formats())}.")
    ] = "f16",
    prefill: Annotated[
        str,
        typer.Option(
            metavar="f16|w4a4",
            help="A prompt's products. w4a4: on FP4 tensor cores, less exact, where matrices are NVFP4 (sm_120a).",
        ),
    ] = "f16",
    dump: Annotated[Path | None, typer.Option(metavar="DIR", help="Write what every step produced here.")] = None,
    tuning: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE.json|none",
            help="How kernels are configured, from imp tune. Default: your table, then the shipped one; none: neither.",
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--exec",
            metavar="auto|graph|persistent",
            help="A decode step as a graph of kernels, as one persistent kernel, or whichever should be faster.",
        ),
    ] = "auto",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Let the simulator watch for races, bad addresses and missing barriers; let a GPU stop with a message "
            "where threads would wait for ever.",
        ),
    ] = False,
    thin: Annotated[
        bool, typer.Option("--thin", help="Leave the weights out, for imp link to add: a file of a few megabytes.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite OUT even if it is no compiled model.")
    ] = False,
) -> None:
    """Compile a checkpoint into one program. Needs no GPU."""
    from imp_codegen.compiler import CompileOptions, compile_model
    from imp_codegen.output import check_output
    from imp_server.console.progress import progress

    if quant is not None and not random_weights:
        raise ImpError(
            f"--quant {quant} is the format of --random-weights; a file is compiled in the format it has, "
            "and hf:org/repo:QUANT chooses among several"
        )
    if "-" in (source, str(output)):
        raise ImpError("- is no file: imp compile reads and writes files, not stdin and stdout; give their names")
    check_output(output, Path(source), force)  # before anything is downloaded
    cache_format(kv)
    if weights is not None:
        rounding_named(weights)
    elif no_kl:
        raise ImpError("--no-kl leaves out what --weights FORMAT measures, which is not given")
    names = _targets(target)
    tables = tables_of(tuning, find_targets(names))
    notes: list[str] = []

    quant = quant or "Q8_0"
    options = CompileOptions(
        random_weights, quant, context, dump, check, describer(notes), tables, form_of(form), force, kv, thin,
        weights, not no_kl, prefill_of(prefill),
    )  # fmt: skip
    with opened(source, thin) as checkpoint, progress() as report:
        result = compile_model(checkpoint, output, names, options, report)
    show(*_tables(output, result))
    if result.rounding is not None:
        show(_rounding(result.plan, result.rounding))
    for note in dict.fromkeys((*result.notes, *notes)):
        print(f"imp: note: {visible(note)}", file=sys.stderr)


def describer(notes: list[str]) -> Callable[[str], str | None]:
    """What tells the compiler what a chat template can do; what is to be said of it is added to `notes`."""
    from imp_server.chat.probe import describe
    from imp_server.chat.template import ChatTemplateError

    def described(template: str) -> str | None:
        try:
            capabilities = describe(template)
        except ChatTemplateError as error:
            notes.append(f"{error}; it is left out, and chat needs another (imp serve --chat-template FILE)")
            return None
        if (capabilities.tools or capabilities.tool_calls) and capabilities.parser == "plain":
            notes.append(_UNKNOWN_CALLS)
        return capabilities.to_json()

    return described


def checkpoint_of(source: str) -> Path:
    """The file or folder that a SOURCE names, downloaded where it is on the Hub."""
    if not source.startswith("hf:"):
        return Path(source)
    _check_variables()
    from imp_server.remote.download import download

    return download(source)


def hub_licence(source: str) -> str | None:
    """What the Hub says of the licence of a repository; None where it does not, or SOURCE is a file."""
    if not source.startswith("hf:"):
        return None
    _check_variables()
    from imp_server.remote.download import licence

    return licence(source)


def _check_variables() -> None:
    try:
        import imp_server.remote.download  # noqa: F401
    except ValueError as error:  # huggingface_hub reads its variables while it is loaded
        raise ImpError(f"a variable HF_... is not what huggingface_hub expects: {error}") from None


@contextmanager
def opened(source: str, thin: bool) -> Iterator[Path | Checkpoint]:
    """What compile_model is given of a SOURCE: of one on the Hub, if the weights are not wanted, its files' heads."""
    if not (thin and source.startswith("hf:")):
        yield checkpoint_of(source)
        return
    _check_variables()
    with tempfile.TemporaryDirectory(prefix="imp-heads-") as place:
        from imp_codegen.checkpoint import WeightFile
        from imp_codegen.checkpoint.heads import open_heads
        from imp_server.remote.heads import heads

        found = heads(source, Path(place))
        if isinstance(found, Path):
            yield found
            return
        files = [WeightFile(file.name, file.bytes, file.sha256) for file in found.files]
        yield open_heads(found.folder, files, found.read)


def _targets(given: str | None) -> tuple[str, ...]:
    """The targets asked for; where nothing is said of the card, it is this machine's."""
    here, found = detect_target(), detect_gpu()
    card = _card(here, *found) if found and here in targets() else None
    if given is None:
        return (f"{here}:{card}",) if card else ("sm_120a", "sim")
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    if not all(names):
        raise ImpError(f"--target is {given!r}; give target names with commas between, like sm_120a,sim")
    return tuple(f"{name}:{card}" if name == here and card else name for name in names)


def _card(target: str, title: str, sms: int) -> str:
    """What stands after a target's colon for a GPU: the card of that name and size, else its multiprocessors."""
    alike = (card for card in cards().values() if (card.target, card.sms) == (target, sms))
    return next((card.name for card in alike if title.startswith(card.title)), str(sms))


def form_of(given: str) -> Wanted:
    """How a decode step is to run; ImpError for a word that says nothing of it."""
    from imp_codegen.kernels.form import Wanted

    for known in get_args(Wanted):
        if given == known:
            return cast("Wanted", known)
    raise ImpError(f"--exec {given} is unknown; known: {', '.join(get_args(Wanted))}")


def prefill_of(given: str) -> Prefill:
    """What a prompt's activations become; ImpError for a word that says nothing of it."""
    from imp_runtime.plan import Prefill

    for known in get_args(Prefill):
        if given == known:
            return cast("Prefill", known)
    raise ImpError(f"--prefill {given!r:.60} is unknown; known: {', '.join(get_args(Prefill))}")


def tables_of(given: str | None, chosen: tuple[Target, ...]) -> tuple[TuningTable, ...]:
    """The tuning tables in the order in which they count: a given one or the user's own, then the shipped ones."""
    from imp_codegen.tune.table import read_table, shipped, user_path

    if given == "none":
        return ()
    if given is None:
        own = [user_path(target.name) for target in chosen]
        return (*(read_table(path) for path in own if path.exists()), *shipped())
    table = read_table(Path(given))
    if not any(map(table.fits, chosen)):
        raise ImpError(f"--tuning {given}: is for {table.cards}, not for {', '.join(str(t) for t in chosen)}")
    return (table, *shipped())


def _tables(output: Path, report: CompileReport) -> tuple[Table, ...]:
    kernels = table(
        f"{output}: {report.plan.model}, {report.plan.weights}",
        ("target", "program", "kernels"),
        [
            (f"{each.target}{' (cached)' if each.cached else ''}" if i == 0 else "", program, str(count))
            for each in report.targets
            for i, (program, count) in enumerate(each.kernels_per_program.items())
        ],
        right=2,
    )
    streams = table(
        "",
        ("target", "streamed stage", "warps x tiles", "from"),
        [
            (each.target if i == 0 else "", stage, str(chosen.choice), chosen.origin)
            for each in report.targets
            for i, (stage, chosen) in enumerate(each.streams.items())
        ],
        right=4,
    )
    steps = table("", ("step", "seconds"), [(name, f"{seconds:.2f}") for name, seconds in report.steps])
    sizes = table(
        "",
        ("", "bytes"),
        [("weights per token", f"{report.bytes_per_token:,}"), ("artifact", f"{report.artifact_bytes:,}")],
    )
    return kernels, streams, steps, sizes


def _rounding(plan: Plan, report: RoundingReport) -> Table:
    measured = report.divergence
    said = (f"{measured.kl:.2e} nats", f"{measured.same_best:.1%}") if measured else ("not measured",) * 2
    over = f"; compared over {measured.tokens} tokens of the text that imp carries" if measured else ""
    return table(
        f"{plan.rounding}{over}",
        ("format", "bytes before", "bytes after", "KL to the source", "same best token"),
        [(report.formats, f"{report.bytes_before:,}", f"{report.bytes_after:,}", *said)],
        right=1,
    )
