"""Embedding rows of the step's tokens."""

from __future__ import annotations

from imp_codegen.graph import Embed
from imp_codegen.kernels.draft import Config, Cpp, Draft, Param
from imp_codegen.kernels.lowering import Lowering, chunk_output, op_names, output
from imp_codegen.passes.fuse import Group

_THREADS = 128


def decode(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """The residual stream `x` = the row of the sequence's last token."""
    (op,) = group.ops
    assert isinstance(op, Embed)
    return (_draft(low, group, op, "EmbedToken", "seq.token", "x", -(-op.out.width // _THREADS), 1),)


def prefill(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """The residual stream of every token of the chunk."""
    (op,) = group.ops
    assert isinstance(op, Embed)
    return (_draft(low, group, op, "EmbedChunk", "step.tokens", "chunk.x", low.chunk_tokens, low.chunk_tokens),)


def _draft(low: Lowering, group: Group, op: Embed, stage: str, tokens: str, x: str, grid: int, rows: int) -> Draft:
    out = low.buffer(x, rows * op.out.width * 4)
    return Draft(
        name=group.name,
        entry="embed",
        headers=("stage/embed", *low.headers(op.weight)),
        stage=Cpp(stage, (Config("EmbedConfig", (("threads", _THREADS),)), low.matrix(op.weight))),
        call=(
            low.plane(op.weight, "w"),
            low.state("const std::int32_t*", "step.input"),
            low.state("const std::int32_t*", tokens),
            Param("float*", "x", out),
        ),
        grid=(grid, 1, 1),
        threads=_THREADS,
        shared_bytes=0,
        ops=op_names(group.ops),
        outputs=(chunk_output(low, op.out, x) if rows > 1 else output(op.out, x),),
        other_bytes=rows * (low.weight_bytes(op.weight) // op.weight.rows + op.out.width * 4),
    )
