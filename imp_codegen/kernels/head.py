"""Final norm and LM head."""

from __future__ import annotations

from imp_codegen.graph import Linear, RmsNorm, Sample
from imp_codegen.kernels.draft import Config, Cpp, Draft, Param
from imp_codegen.kernels.lowering import Lowering, chunk_output, op_names, output, round_up, stream
from imp_codegen.kernels.prefill import encode_chunk, gemm_chunk
from imp_codegen.kernels.sample import sampled
from imp_codegen.passes.fuse import Group


def logits(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """The logits of a decode step."""
    return (_logits(low, group),)


def after_prefill(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """A token from the hidden state of the chunk's last one."""
    norm, _, _ = parts(group)
    width = norm.x.width
    take = Draft(
        name="last_token",
        entry="take_last",
        headers=("stage/take_last",),
        stage=Cpp("TakeLast", (Config("TakeLastConfig", (("cols", width), ("threads", 128))),)),
        call=(
            low.state("const std::int32_t*", "step.input"),
            Param("const float*", "chunk", low.buffer("chunk.x", low.chunk_tokens * width * 4)),
            Param("float*", "x", low.buffer("x", width * 4)),
        ),
        grid=(1, 1, 1),
        threads=128,
        shared_bytes=0,
        ops=(),
        other_bytes=width * 8,
    )
    return (take, _logits(low, group), *sampled(low, group, score=True, weigh=True, advance=False))


def all_logits(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Logits of every token of the chunk, into `logits.all`."""
    norm, linear, _ = parts(group)
    return (
        encode_chunk(low, norm.out, "norm", "chunk.x", (linear.weight,), norm),
        gemm_chunk(low, linear, norm.x.width, "logits.all", stride=linear.out.width),
    )


def all_hidden(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """The hidden state of every token of the chunk after the final norm, into `hidden.all`."""
    norm, _, _ = parts(group)
    width, tokens, threads = norm.x.width, low.chunk_tokens, 256
    config = Config("NormChunkConfig", (("cols", width), ("threads", threads), ("eps", norm.eps)))
    draft = Draft(
        name="hidden",
        entry="norm_chunk",
        headers=("stage/norm_chunk",),
        stage=Cpp("NormChunk", (config,)),
        call=(
            Param("const float*", "x", low.buffer("chunk.x", tokens * width * 4)),
            low.plane(norm.weight, "norm"),
            low.state("const std::int32_t*", "step.input"),
            Param("float*", "y", low.buffer("hidden.all", tokens * width * 4)),
        ),
        grid=(tokens, 1, 1),
        threads=threads,
        shared_bytes=round_up(threads // 32 * 4, 16),
        ops=op_names(group.ops[:1]),
        outputs=(chunk_output(low, norm.out, "hidden.all"),),
        other_bytes=tokens * width * 8,
    )
    return (draft,)


def parts(group: Group) -> tuple[RmsNorm, Linear, Sample]:
    """The operations of the last group of every model."""
    norm, linear, sample = group.ops
    assert isinstance(norm, RmsNorm)
    assert isinstance(linear, Linear)
    assert isinstance(sample, Sample)
    return norm, linear, sample


def _logits(low: Lowering, group: Group) -> Draft:
    norm, linear, _ = parts(group)
    grid = low.target.sms
    vocab = linear.out.width
    streamed = stream(low, "head", norm.x.width, (linear.weight,), norm=norm)
    warps = streamed.warps
    logits = low.buffer("logits", vocab * 4)
    best_value = low.buffer("head.best_value", grid * 4)
    best = low.buffer("head.best", grid * 4)
    return Draft(
        name="head",
        entry="head",
        headers=("stage/gemv", *low.headers(linear.weight)),
        stage=Cpp(
            "Gemv",
            (
                streamed.gemv,
                streamed.encode,
                Cpp("StoreLogits", (Config("LogitsConfig", (("warps", warps),)),)),
                low.matrix(linear.weight),
            ),
        ),
        call=(
            Param("const float*", "x", low.buffer("x", norm.x.width * 4)),
            low.plane(norm.weight, "norm"),
            (
                Param("float*", "logits", logits),
                Param("float*", "best_value", best_value),
                Param("std::uint32_t*", "best", best),
            ),
            low.plane(linear.weight, "w"),
        ),
        grid=(grid, 1, 1),
        threads=warps * 32,
        shared_bytes=streamed.shared + round_up(warps * 8, 16),
        overlap=True,
        ops=op_names(group.ops[:2]),
        outputs=(output(linear.out, "logits"),),
        weight_bytes=low.weight_bytes(linear.weight),
        other_bytes=norm.x.width * 8 + vocab * 4,
        flops=2 * linear.weight.rows * linear.weight.cols,
    )
