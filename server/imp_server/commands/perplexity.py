"""`imp perplexity`: how well a model tells a text, and how far it is from another model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imp_runtime.errors import ImpError
from imp_runtime.text import visible
from imp_server.commands import arguments as a

if TYPE_CHECKING:
    from imp_runtime.divergence import Divergence, Mean
    from imp_runtime.engine import Engine
    from imp_runtime.perplexity import Chunks, Floats, Score
    from imp_runtime.saved_logits import SavedLogits
    from imp_server.console.progress import Report
    from imp_server.generation.tokenizer import Tokenizer

NAME = "perplexity"
CONTEXT = 512  # as llama-perplexity


def command(
    file: a.File,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A UTF-8 text. Default: one that imp carries.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=8, metavar="N", help="Tokens of a chunk, whose second half is scored. Default: 512."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER.impc", help="Compare with this model, on the same device.")
    ] = None,
    logits: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Compare with what --save-logits has saved.")
    ] = None,
    save_logits: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Save log-probabilities, two bytes each.")
    ] = None,
    target: a.Target = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Perplexity of a text as llama-perplexity measures it; with a base, KL divergence and agreement.

    Both models of --against are loaded at once; where they do not fit, save the logits of one first.
    """
    from imp_runtime.perplexity import chunks_of
    from imp_runtime.saved_logits import SavedLogits
    from imp_server.console.progress import progress

    if against is not None and logits is not None:
        raise ImpError("--against and --logits each name a base; give one of them")
    saved = SavedLogits.open(logits) if logits is not None else None
    told = _text(text)
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        size = context or (saved.chunks.shape[1] if saved is not None else CONTEXT)
        engine, tokenizer = _load(stack, file, target, size, report)
        tokens = tokenizer.encode(told, special=True)
        chunks = chunks_of(tokens, size, tokenizer.begin)
        base = None
        if saved is not None:
            base = _from_file(saved, engine, tokenizer, chunks)
        elif against is not None:
            base = _from_model(_load(stack, against, target, size, report), engine, tokenizer, told, tokens, chunks)
        score = _measure(engine, tokenizer, chunks, base, save_logits, report)
        where = f"{engine.target} on {engine.device_name}"
    of = {
        "model": str(file),
        "where": where,
        "text": str(text or "the text that imp carries"),
        "tokens": len(tokens),
        "context": size,
        "chunks": len(chunks),
        "against": str(against or logits) if base is not None else None,
    }
    if as_json:
        print(json.dumps({**of, **dataclasses.asdict(score)}, indent=2))
    else:
        title = f"{file.name}, {where}: {of['text']}, {len(tokens):,} tokens, {len(chunks)} chunks of {size}"
        _print(score, title, against or logits)


def _text(path: Path | None) -> str:
    from imp_runtime.evaluation_text import evaluation_text

    if path is None:
        return evaluation_text()
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ImpError(f"{path}: is not UTF-8: byte {error.start} is {error.object[error.start]:#x}") from None


def _load(stack: ExitStack, file: Path, target: str | None, size: int, report: Report) -> tuple[Engine, Tokenizer]:
    """An engine with room for one chunk, and the tokenizer of its artifact."""
    from imp_runtime.engine import Engine
    from imp_server.generation.tokenizer import Tokenizer

    def named(step: str, done: int, total: int) -> None:
        report(f"{file.name}: {step}", done, total)

    engine = stack.enter_context(Engine.load(file, target=target, kv_tokens=max(size, 32), progress=named))
    if size > engine.plan.context:
        raise ImpError(f"{file}: the context is {engine.plan.context} tokens, a chunk {size}; give --context")
    return engine, Tokenizer(engine.artifact)


def _from_file(saved: SavedLogits, engine: Engine, tokenizer: Tokenizer, chunks: Chunks) -> Iterator[Floats]:
    import numpy as np

    from imp_runtime.perplexity import ROWS

    if (saved.vocabulary, saved.vocab) != (tokenizer.vocabulary_hash, engine.plan.vocab):
        raise ImpError(
            f"{saved.path}: was saved by {saved.model}, whose tokenizer differs from that of {engine.artifact.path}, "
            "so that probabilities are of different things; compare models with the same one"
        )
    if not np.array_equal(saved.chunks, chunks):
        raise ImpError(
            f"{saved.path}: holds {saved.chunks.shape[0]} chunks of {saved.chunks.shape[1]} tokens, others than the "
            f"{len(chunks)} of {chunks.shape[1]} asked for; give the --text and --context that it was saved with"
        )
    return saved.rows(ROWS)


def _from_model(
    other: tuple[Engine, Tokenizer], engine: Engine, own: Tokenizer, text: str, tokens: list[int], chunks: Chunks
) -> Iterator[Floats]:
    from imp_runtime.perplexity import scored_logits

    base, tokenizer = other
    same = tokenizer.vocabulary_hash == own.vocabulary_hash and base.plan.vocab == engine.plan.vocab
    if not same or tokenizer.encode(text, special=True) != tokens:
        raise ImpError(
            f"{engine.artifact.path} and {base.artifact.path} have different tokenizers, so that probabilities are of "
            "different things; compare models with the same one"
        )
    return scored_logits(base, chunks)


def _measure(
    engine: Engine,
    tokenizer: Tokenizer,
    chunks: Chunks,
    base: Iterator[Floats] | None,
    save: Path | None,
    report: Report,
) -> Score:
    from imp_runtime.perplexity import measure, scored_logits
    from imp_runtime.saved_logits import saving

    logits = scored_logits(engine, chunks)
    if save is None:
        return measure(logits, chunks, report, base=base)
    with saving(save, chunks, engine.plan.vocab, tokenizer.vocabulary_hash, str(engine.artifact.path)) as write:
        return measure(logits, chunks, report, base=base, save=write)


def _print(score: Score, title: str, base: Path | None) -> None:
    from imp_server.console.tables import show, table

    rows = [("perplexity", *_shown(score.perplexity, 4)), ("tokens scored", f"{score.scored:,}", "")]
    if score.divergence is not None and base is not None:
        rows += _compared(score.divergence, base.name)
    print(visible(title))
    show(table("", ("", "", "±"), rows))


def _compared(found: Divergence, base: str) -> list[tuple[str, str, str]]:
    return [
        (f"perplexity of {base}", *_shown(found.perplexity, 4)),
        ("ratio to that", *_shown(found.ratio, 5)),
        ("KL divergence from that, mean, nats", *_shown(found.kl, 6)),
        ("median", f"{found.kl_median:.6f}", ""),
        ("99 %", f"{found.kl_99:.6f}", ""),
        ("largest", f"{found.kl_max:.6f}", ""),
        ("same likeliest token, %", *_shown(found.same_best, 3, 100)),
        ("change of the token's probability, mean, %", *_shown(found.change, 4, 100)),
        ("rms, %", *_shown(found.rms_change, 4, 100)),
    ]


def _shown(mean: Mean, digits: int, times: float = 1.0) -> tuple[str, str]:
    return f"{times * mean.value:.{digits}f}", f"{times * mean.error:.{digits}f}"
