"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imp_server.console.progress import progress

if TYPE_CHECKING:
    from imp_server.model import Model

File = Annotated[Path, typer.Argument(metavar="FILE", help="A compiled model (.impc).", show_default=False)]
Target = Annotated[
    str | None, typer.Option(metavar="TARGET", help="Code to run: sm_120a, sm_90a or sim. Default: this machine's.")
]
KvTokens = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Size of the KV cache in tokens. Default: what fits.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Most tokens to generate.")]
Temperature = Annotated[float | None, typer.Option(metavar="T", help="0 is greedy. Default: the model's.")]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Keep the K most likely tokens; 0 is off.")]
TopP = Annotated[float | None, typer.Option(metavar="P", help="Keep the likeliest tokens that add up to P; 1 is off.")]
MinP = Annotated[float | None, typer.Option(metavar="P", help="Drop tokens below P times the likeliest; 0 is off.")]
RepetitionPenalty = Annotated[float | None, typer.Option(metavar="X", help="Above 1 discourages repeats; 1 is off.")]
FrequencyPenalty = Annotated[float | None, typer.Option(metavar="X", help="Per earlier occurrence; 0 is off.")]
PresencePenalty = Annotated[float | None, typer.Option(metavar="X", help="For any earlier occurrence; 0 is off.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same tokens.")]


@contextmanager
def loaded(file: Path, *, target: str | None, kv_tokens: int | None) -> Iterator[Model]:
    """The model of a command, with a progress bar while it loads."""
    from imp_server.model import Model

    with progress(transient=True) as report:
        model = Model.load(file, target=target, kv_tokens=kv_tokens, progress=report)
    with model:
        yield model
