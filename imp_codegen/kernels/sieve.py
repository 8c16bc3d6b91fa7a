"""From logits to a token where the filters look at all candidates together."""

from __future__ import annotations

from imp_codegen.graph import label
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec, Param
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
)

# Its CTAs wait for one another, also on a card that is much smaller than what grids are sized for: none of a target has
# fewer multiprocessors than an RTX 5050.
_FEWEST_SMS = 20
_PER_SM = 2
_NEAR = 8192  # tokens of a CTA whose scores lie in shared memory, as in stage/sieve.h


def sieved(low: Lowering, head: Head) -> tuple[KernelSpec, ...]:
    """The end of a step that chooses by any record with a temperature."""
    vocab, threads = head.logits.width, low.target.sample_threads
    parts = min(low.target.sms, _PER_SM * _FEWEST_SMS)
    slice_tokens = round_up(-(-vocab // parts), 32)
    scores_bytes = slice_tokens * 4 if slice_tokens <= _NEAR else 0
    kernel = KernelSpec(
        name="sieve",
        entry="sieve",
        headers=("stage/sieve",),
        stage=Cpp("Sieve", (sample_config(low, head, parts=parts),)),
        args={
            "adjust": adjust(low, head),
            "surprise_limits": low.state("float*", "seq.surprise"),
            "scores": Param("float*", low.buffer("sample.scores", vocab * 4)),
            "shares": Param("std::uint64_t*", low.buffer("sieve.shares", 2 * parts * 24)),
            "histograms": Param("std::uint64_t*", low.buffer("sieve.histograms", 3 * BINS * 8)),
            "arrived": Param("std::uint32_t*", low.buffer("sieve.arrived", 4)),
            "surprises": low.state("float*", "out.surprise"),
            "memory": memory(low),
            "delivery": delivery(low),
        },
        grid=(parts, 1, 1),
        threads=threads,
        shared_bytes=BINS * 8 + REPETITION_BYTES + best_bytes(threads) + 16 + crossing_bytes(threads) + scores_bytes,
        ops=(label(head.sample),),
        overlap=True,
        resident=True,
        per_sm=_PER_SM,
        other_bytes=vocab * 8,
    )
    return (kernel,)
