"""What the host gets to see of a step's logits: all of them, or the best and what all weigh."""

from __future__ import annotations

from imp_codegen.kernels.head import Head
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.sample import best_bytes, candidates_bytes, logits, sample_config
from imp_runtime.plan import STEP_LINE, TOP_ENTRIES, TOP_LISTED, TOP_LOGPROBS, Binding


def export(low: Lowering, head: Head) -> tuple[KernelSpec, ...]:
    """The last logits to the host's memory."""
    vocab, threads = head.logits.width, 256
    fields = (("vocab", vocab), ("threads", threads), *((("several", True),) if low.several else ()))
    kernel = KernelSpec(
        name="export",
        entry="export_logits",
        headers=("stage/export_logits",),
        stage=Cpp("ExportLogits", (Config("ExportConfig", fields),)),
        args={
            "logits": low.value("const float*", head.logits),
            "step": low.step(),
            "sampling": low.state("const Sampling*", "seq.sampling"),
            "rows": low.state("float*", "out.logits"),
            **low.ends(),
        },
        grid=(low.target.sms, low.rows, 1),
        threads=threads,
        shared_bytes=0,
        ops=(),
        other_bytes=low.rows * vocab * 8,
    )
    return (kernel,)


def top(low: Lowering, head: Head) -> tuple[KernelSpec, ...]:
    """The best logits of the step that has just sampled, what all weigh, and the chosen token's."""
    vocab, parts, threads = head.logits.width, low.target.sms, low.target.sample_threads
    ends, before = low.rows, Binding("step.sequences", STEP_LINE)
    kernel = KernelSpec(
        name="top",
        entry="top_logits",
        headers=("stage/top_logits",),
        stage=Cpp("TopLogits", (sample_config(low, head), TOP_LOGPROBS, TOP_ENTRIES)),
        args={
            "scores": logits(low, head),
            "step": low.step(),
            "tokens": low.state("const std::int32_t*", "seq.token"),
            "sampled": Param("const std::uint32_t*", before if low.several else Binding("out.count")),
            "work": {
                "part_mass": Param("std::uint64_t*", low.buffer("top.part_mass", ends * parts * 8)),
                "listed": Param("std::uint64_t*", low.buffer("top.listed", ends * TOP_LISTED * 8)),
                "arrived": Param("std::uint32_t*", low.buffer("top.arrived", ends * 8)),
            },
            "entries": low.state("imp::TopEntry*", "out.top"),
            **low.ends(),
            "sampling": low.state("const Sampling*", "seq.sampling") if low.several else None,
        },
        grid=(parts, ends, 1),
        threads=threads,
        shared_bytes=candidates_bytes(threads) + best_bytes(threads) + 32 + round_up(parts * 4, 16),
        ops=(),
        other_bytes=ends * vocab * 4,
    )
    return (kernel,)
