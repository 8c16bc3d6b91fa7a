"""From logits to a token: the greedy end of a step, and the one that samples.

In programs of several rows there is an end for each, in the same launches, and for each a row of the grid: whether its
scores are other numbers than its logits, and which filters it has, says its record.
"""

from __future__ import annotations

from imp_codegen.graph import label
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.kernel_spec import Arguments, Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import LEDGERS, Lowering, round_up
from imp_runtime.plan import BREAKER_WORDS, RING, STEP_LINE, Binding

BINS = 2048  # kBins of stage/sampling.h
# Candidates that a list holds, 32 KB of shared memory. A bin of 1/128 nat has up to 475 of 152k normally distributed
# logits of variance 1, and the more the nearer they are.
_LISTED = 8192
REPETITION_BYTES = 16  # shared memory of Repetition in stage/repetition.h


def greedy(low: Lowering, head: Head) -> tuple[KernelSpec, ...]:
    """The likeliest token: the end of a step, whose last row counts from now on."""
    threads = low.target.sample_threads
    kernel = KernelSpec(
        name="greedy",
        entry="greedy",
        headers=("stage/greedy",),
        stage=Cpp("Greedy", (sample_config(low, head),)),
        args={**bests(low), "delivery": delivery(low)},
        grid=(1, 1, 1),
        threads=threads,
        shared_bytes=best_bytes(threads),
        ops=(label(head.sample),),
        overlap=True,
        other_bytes=low.target.sms * 8,
    )
    return (kernel,)


def sampled(low: Lowering, head: Head, *, score: bool, weigh: bool) -> tuple[KernelSpec, ...]:
    """The end of a step that chooses by the sampling record.

    `score`: also where it adjusts the logits. `weigh`: fast also where its filters need a histogram.
    """
    config = sample_config(low, head, weighed=weigh)
    # The same kernels for every end.
    before = sample_config(low, head)
    vocab, parts, threads = head.logits.width, low.target.sms, low.target.sample_threads
    ends = low.rows
    source = scores(low, head) if score else logits(low, head)
    # A CTA's own candidates, scores and ids; then the scores of the whole list.
    lists = max(_LISTED * 4, min(_LISTED, round_up(-(-vocab // parts), 32)) * 8)
    histogram = Param("std::uint64_t*", low.buffer("sample.histogram", ends * BINS * 8))
    sampling = low.state("const Sampling*", "seq.sampling")
    scores_kernel = KernelSpec(
        name="score",
        entry="score",
        headers=("stage/score",),
        stage=Cpp("Score", (before,)),
        args={
            "adjust": adjust(low, head),
            "scores": Param("float*", _scores(low, head)),
            "best_value": Param("float*", low.buffer("sample.best_value", ends * parts * 4)),
            "best": Param("std::uint32_t*", low.buffer("sample.best", ends * parts * 4)),
            "logit_value": Param("float*", _logit_best(low, "best_value")) if low.several else None,
            "logit_best": Param("std::uint32_t*", _logit_best(low, "best")) if low.several else None,
        },
        grid=(parts, ends, 1),
        threads=threads,
        shared_bytes=REPETITION_BYTES + best_bytes(threads),
        ops=(),
        overlap=True,
        other_bytes=ends * vocab * 4 + min(ends, LEDGERS) * vocab * 4,
    )
    weigh_kernel = KernelSpec(
        name="weigh",
        entry="weigh",
        headers=("stage/weigh",),
        stage=Cpp("Weigh", (before,)),
        args={
            "step": low.step(),
            "sampling": sampling,
            "scores": source,
            "histogram": histogram,
            **low.ends(),
        },
        grid=(parts, ends, 1),
        threads=threads,
        shared_bytes=BINS * 8 + best_bytes(threads),
        ops=(),
        overlap=True,
        other_bytes=ends * vocab * 4,
    )
    draw_kernel = KernelSpec(
        name="draw",
        entry="draw" + ("_weighed" if weigh else ""),
        headers=("stage/draw",),
        stage=Cpp("Draw", (config,)),
        args={
            "sampling": sampling,
            "scores": source,
            "work": {
                "histogram": histogram,
                "winner_value": Param("float*", low.buffer("sample.winner_value", ends * parts * 4)),
                "winner": Param("std::uint32_t*", low.buffer("sample.winner", ends * parts * 4)),
                "list_scores": Param("float*", low.buffer("sample.list_scores", ends * _LISTED * 4)),
                "list_ids": Param("std::uint32_t*", low.buffer("sample.list_ids", ends * _LISTED * 4)),
                "arrived": Param("std::uint32_t*", low.buffer("sample.arrived", ends * 8)),
            },
            "memory": memory(low),
            "delivery": delivery(low),
        },
        grid=(parts, ends, 1),
        threads=threads,
        shared_bytes=candidates_bytes(threads) + best_bytes(threads) + 16 + lists,
        ops=(label(head.sample),),
        overlap=True,
        other_bytes=ends * vocab * 4,
    )
    return (*((scores_kernel,) if score else ()), *((weigh_kernel,) if weigh else ()), draw_kernel)


def sample_config(
    low: Lowering, head: Head, *, weighed: bool = True, parts: int | None = None, threads: int | None = None
) -> Config:
    """SampleConfig of stage/sampling.h; `parts` are as many as multiprocessors unless given."""
    return Config(
        "SampleConfig",
        (
            ("vocab", head.logits.width),
            ("context", low.context),
            ("breakers", BREAKER_WORDS),
            ("parts", parts or low.target.sms),
            ("threads", threads or low.target.sample_threads),
            ("listed", _LISTED),
            ("ring", RING),
            ("weighed", weighed),
            *((("several", True),) if low.several else ()),
        ),
    )


def adjust(low: Lowering, head: Head) -> Arguments:
    """What makes scores of logits (Adjust of stage/score.h)."""
    rows = LEDGERS if low.several else 1
    return {
        "logits": low.value("const float*", head.logits),
        "step": low.step(),
        "sampling": low.state("const Sampling*", "seq.sampling"),
        "positions": low.state("const std::int32_t*", "seq.position"),
        "history": low.state("const std::int32_t*", "ledger.history"),
        "breakers": low.state("const std::int32_t*", "ledger.breakers"),
        "seen": low.state("const Seen*", "ledger.seen"),
        "mask": low.state("const std::uint32_t*", "ledger.mask"),
        "bias": low.state("const float*", "ledger.bias"),
        "longest": Param("std::uint32_t*", low.buffer("sample.longest", rows * head.logits.width * 4)),
        **low.ends(),
    }


def scores(low: Lowering, head: Head) -> Arguments:
    """What records make of logits, as a draw looks at them (Scores of stage/candidates.h)."""
    nbytes, adjusted = low.rows * low.target.sms * 4, Param("const float*", _scores(low, head))
    return {
        "values": low.value("const float*", head.logits) if low.several else adjusted,
        "best_value": Param("const float*", low.buffer("sample.best_value", nbytes)),
        "best": Param("const std::uint32_t*", low.buffer("sample.best", nbytes)),
        "adjusted": adjusted if low.several else None,
    }


def _scores(low: Lowering, head: Head) -> Binding:
    """Only who has a ledger has scores that are other numbers than the logits."""
    return low.buffer("sample.scores", (LEDGERS if low.several else 1) * head.logits.width * 4)


def logits(low: Lowering, head: Head) -> Arguments:
    """Logits, looked at in the same way."""
    return {"values": low.value("const float*", head.logits), **bests(low), "adjusted": None}


def bests(low: Lowering) -> Arguments:
    """The best logit of each of a row's parts."""
    return {
        "best_value": Param("const float*", _logit_best(low, "best_value")),
        "best": Param("const std::uint32_t*", _logit_best(low, "best")),
    }


def _logit_best(low: Lowering, name: str) -> Binding:
    """The CTAs of one row's LM head leave them, of several rows those that score."""
    return low.buffer(f"sample.logit_{name}" if low.several else f"head.{name}", low.rows * low.target.sms * 4)


def delivery(low: Lowering) -> Arguments:
    """What a chosen token changes (Delivery of stage/sampling.h)."""
    return {
        "step": low.step(),
        "tokens": low.state("std::int32_t*", "seq.token"),
        "positions": low.state("std::int32_t*", "seq.position"),
        "count": low.state("std::uint32_t*", "out.count"),
        "ring": low.state("std::uint64_t*", "out.ring"),
        **low.ends(),
        "first": Param("const std::uint32_t*", Binding("step.sequences", STEP_LINE)),
    }


def memory(low: Lowering) -> Arguments:
    """What a sequence with a ledger has of its tokens (Memory of stage/sampling.h)."""
    return {
        "history": low.state("std::int32_t*", "ledger.history"),
        "seen": low.state("Seen*", "ledger.seen"),
    }


def candidates_bytes(threads: int) -> int:
    """Shared memory of Candidates in stage/candidates.h."""
    return 256 * 12 + 16 + crossing_bytes(threads)


def crossing_bytes(threads: int) -> int:
    """Shared memory of find_crossing in stage/candidates.h."""
    return round_up(threads // 4, 16) + 16


def best_bytes(threads: int) -> int:
    """Shared memory of cta_best in stage/best.h."""
    return round_up(threads // 32 * 8, 16)
