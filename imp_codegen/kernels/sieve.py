"""From logits to a token where the filters look at all candidates together.

The CTAs of one row's end wait for one another. Where ends are several, each has one CTA: that takes longer than one
alone does, but no longer for all of them; their scores are made by the kernels that draw.
"""

from __future__ import annotations

from imp_codegen.graph import label
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.kernel_spec import Arguments, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.sample import (
    BINS,
    REPETITION_BYTES,
    adjust,
    best_bytes,
    crossing_bytes,
    delivery,
    memory,
    sample_config,
    scores,
)

# Its CTAs wait for one another, also on a card that is much smaller than what grids are sized for: none of a target has
# fewer multiprocessors than an RTX 5050.
_FEWEST_SMS = 20
_PER_SM = 2
_NEAR = 8192  # tokens of a CTA whose scores lie in shared memory, as in stage/sieve.h


def sieved(low: Lowering, head: Head) -> tuple[KernelSpec, ...]:
    """The end of a step that chooses by any record with a temperature."""
    if low.several:
        return (_kernel(low, head, parts=1, threads=2 * low.target.sample_threads),)
    return (_kernel(low, head, parts=min(low.target.sms, _PER_SM * _FEWEST_SMS), threads=low.target.sample_threads),)


def _kernel(low: Lowering, head: Head, *, parts: int, threads: int) -> KernelSpec:
    vocab, ends, several = head.logits.width, low.rows, low.several
    slice_tokens = round_up(-(-vocab // parts), 32)
    scores_bytes = slice_tokens * 4 if slice_tokens <= _NEAR and not several else 0
    source: Arguments = (
        {
            "step": low.step(),
            "sampling": low.state("const Sampling*", "seq.sampling"),
            **low.ends(),
            "scores": scores(low, head),
        }
        if several
        else adjust(low, head)
    )
    return KernelSpec(
        name="sieve",
        entry="sieve",
        headers=("stage/sieve",),
        stage=Cpp("Sieve", (sample_config(low, head, parts=parts, threads=threads),)),
        args={
            "source": source,
            "surprise_limits": low.state("float*", "seq.surprise"),
            "scores": None if several else Param("float*", low.buffer("sample.scores", vocab * 4)),
            "shares": Param("std::uint64_t*", low.buffer("sieve.shares", ends * 2 * parts * 24)),
            "histograms": Param("std::uint64_t*", low.buffer("sieve.histograms", ends * 3 * BINS * 8)),
            "arrived": Param("std::uint32_t*", low.buffer("sieve.arrived", ends * 4)),
            "surprises": low.state("float*", "out.surprise"),
            "memory": memory(low),
            "delivery": delivery(low),
        },
        grid=(parts, ends, 1),
        threads=threads,
        shared_bytes=BINS * 8
        + (0 if several else REPETITION_BYTES)
        + best_bytes(threads)
        + 16
        + crossing_bytes(threads)
        + scores_bytes,
        ops=(label(head.sample),),
        overlap=True,
        resident=not several,
        per_sm=1 if several else _PER_SM,
        other_bytes=ends * vocab * 8,
    )
