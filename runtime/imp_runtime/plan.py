"""The launch plan: what the compiler decided, as data. This module is the contract between compiler and runtime.

A plan is JSON inside the artifact. It names programs (`step_r1`, `forward_r128`, ...), the buffers they use and, for
each program, its kernels in launch order. Kernels take device pointers only: every number that could be baked in is
baked in, and what changes from step to step lives in the state buffers listed below, on the GPU.

A program runs rows: each is a token of some sequence. Those of one sequence are neighbours, at positions that follow
one another, and what becomes of a sequence does not depend on which others are there.

Every sequence that runs has a slot. What of one is as long as the vocabulary, or its history, lies in a ledger, and as
greedy choices and plain draws need nothing of this, there are fewer ledgers than slots. The sampling record names the
sequence's. Counts and history are kept up to date by whatever chooses by the record.

State buffers (all little-endian; S = `plan.slots`, L = `plan.ledgers`, V = vocabulary, R = `plan.rows`,
B = `plan.table_blocks`, G groups of layers in `plan.state`)

===============  ====================  ================================================================================
name             type                  meaning
===============  ====================  ================================================================================
step.rows        int32[1 + R, 4]       {rows, sequences, row, slot}: how many there are, which row `head_r1` takes, and
                                       the sequence whose token is chosen; then of each row {slot, offset, token, 0}. It
                                       stands at seq.position + offset; its token is an id, or LAST_TOKEN for seq.token
step.sequences   int32[2 + R, 4]       read by programs of several rows only: {ends, sequences, 0, 0};
                                       {tokens chosen before these, 0, 0, 0}; of each sequence {first row, rows, slot,
                                       end}. The end: its place among those after whose last row a token is chosen,
                                       which counts only then, or NO_END
seq.token        int32[S]              last sampled token
seq.position     int32[S]              tokens of the sequence already in the KV cache = position of the next token
seq.table        int32[S, B, G]        KV block tables: of each group the block of positions 16i .. 16i+15
seq.sampling     SAMPLING_DTYPE[S]     sampling parameters
seq.surprise     float32[S]            Mirostat's limit, in bits; read where the record says MIROSTAT
ledger.mask      uint32[L, V / 32]     V / 32 rounded up; bit t % 32 of word t / 32: token t may be chosen; read where
                                       the record says MASKED
ledger.bias      float32[L, V]         added to the logits; read where the record says BIASED
ledger.seen      uint32[L, V, 2]       per token id: times generated, times among the last `repeat_last_n` tokens
ledger.history   int32[L, C]           C = `plan.context`: the tokens of prompt and answer; read where the record has
                                       DRY or a `repeat_last_n`
ledger.breakers  int32[L, N]           N = BREAKER_WORDS: the length of each of DRY's breakers and its tokens; at last 0
out.count        uint32[1]             tokens chosen since load, by any program, each of which adds what it has chosen:
                                       the index of the next ring entry
out.ring         uint64[RING]          pinned host memory: entry `count % RING` = (count + 1) << 32 | token, or NO_TOKEN
                                       where the logits were no finite numbers
out.logits       float32[L, V]         pinned host memory: a sequence's last logits, as `export_r*` left them
out.surprise     float32[RING]         pinned host memory: for the token at the same place of the ring, seq.surprise
                                       after it, if Mirostat chose it
out.top          TOP_DTYPE[N]          pinned host memory, N = TOP_ENTRIES: of token `i` of all chosen, entry `i % N`
kv               bytes                 the paged cache, `blocks * plan.block_bytes`; block 0 is never handed out
===============  ====================  ================================================================================

Programs are named by the rows that they run, one or up to so many:

- `forward_r*` runs rows through the model. That of several rows advances the positions of its sequences; of those that
  sample, the last row counts once its token is chosen. That of one row, of a sequence that samples, leaves logits.
- `batch_r*` does the same with one row of each of several sequences, and leaves logits of all.
- `head_r1` makes logits of one of the rows that `forward_r*` has run, the one that step.rows names; `head_r*` of all
  after which a token is chosen.
- `sample_r1` chooses a token by any record but those that need SIEVE, which chooses by any that has a temperature. Both
  work on the slot that step.rows names, and on the last logits. `sample_r*` and `sieve_r*` choose those of several
  sequences, out of what `batch_r*` or `head_r*` has made, each of those whose record is for it.
- `step_r1` is `forward_r1` and the likeliest token. Those of STEP_SAMPLED choose by the sampling record instead: with
  `score` also where it adjusts the logits, with `weigh` fast also where its filters need a histogram; STEP_SIEVE
  chooses as SIEVE does. None of them needs anything from the host between two steps of the same sequence.
- `export_r1` copies the last logits to out.logits; `top_r1` leaves in out.top what log-probabilities take; `export_r*`
  and `top_r*` those of the sequences whose records have EXPORTED and LISTED.
- `logits_r*` computes the logits of every row just run, `hidden_r*` the hidden states after the final norm.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from imp_runtime.errors import ImpError
from imp_runtime.text import visible

PLAN_VERSION = 18
BLOCK_TOKENS = 16
RING = 1024
MAX_SMS = 1024  # multiprocessors of any card, with much to spare
NO_LEDGER = -1  # of a sampling record
MASKED = 1  # bits of the sampling record's flags
BIASED = 2
MIROSTAT = 4
EXPORTED = 8
LISTED = 16
NO_TOKEN = 2**32 - 1
LAST_TOKEN = -1  # of a row: what its sequence has chosen last
NO_END = -1  # of a sequence in step.sequences: no token is chosen after its rows
STEP_LINE = 16  # bytes of the header of step.rows, of each row, and of each sequence
SEQUENCES_HEADER = 2 * STEP_LINE  # of step.sequences

STEP_SAMPLED = {
    (False, False): "step_draw_r1",
    (True, False): "step_score_r1",
    (False, True): "step_weigh_r1",
    (True, True): "step_score_weigh_r1",
}
"""The programs that sample, by what they do before the draw: adjust the logits, and make a histogram of them."""
SIEVE, STEP_SIEVE = "sieve_r1", "step_sieve_r1"
"""Those that also know locally typical sampling, XTC and Mirostat, which need several passes over all scores."""
STEPS = ("step_r1", *STEP_SAMPLED.values(), STEP_SIEVE, "forward_r1")
"""The programs that run a step of the model, in which its two forms differ."""
WEIGHED_TOP_K = 64
"""A larger top-k, or a top-p without one, is faster with a histogram; the token is the same."""

SAMPLING_DTYPE = np.dtype(
    [
        ("temperature", "<f4"),  # 0: greedy
        ("top_p", "<f4"),  # 1: off
        ("min_p", "<f4"),  # 0: off
        ("top_k", "<i4"),  # 0: off
        ("repetition_penalty", "<f4"),  # 1: off
        ("frequency_penalty", "<f4"),
        ("presence_penalty", "<f4"),
        ("flags", "<u4"),  # MASKED | BIASED | MIROSTAT | EXPORTED | LISTED
        ("seed", "<u8"),
        ("typical_p", "<f4"),  # 1: off
        ("xtc_probability", "<f4"),  # 0: off
        ("xtc_threshold", "<f4"),
        ("mirostat_tau", "<f4"),
        ("mirostat_eta", "<f4"),
        ("repeat_last_n", "<i4"),  # -1: all
        ("dry_multiplier", "<f4"),  # 0: off
        ("dry_base", "<f4"),
        ("dry_allowed_length", "<i4"),
        ("dry_longest", "<i4"),  # a longer repetition counts as this
        ("dry_last_n", "<i4"),  # -1: all
        ("ledger", "<i4"),  # NO_LEDGER: it has none
    ]
)
"""One sequence's sampling parameters, 88 bytes, the layout of `imp::Sampling` in stage/sampling.h."""

BREAKER_WORDS = 1024
LONGEST_REPEAT = 1024  # tokens that DRY follows back; long before, its penalty excludes the token

TOP_LOGPROBS = 64  # tokens whose log-probabilities are to be had without all logits
TOP_LISTED = 252
TOP_ENTRIES = 256  # the tokens that are on their way at once
TOP_DTYPE = np.dtype(
    [
        ("count", "<u4"),  # of listed tokens
        ("peak", "<f4"),  # the largest logit
        ("mass", "<u8"),  # sum of exp(logit - peak), in units of 2^-32
        ("chosen", "<f4"),  # the logit of the chosen token
        ("padding", "<u4", 3),
        ("listed", [("logit", "<f4"), ("token", "<u4")], TOP_LISTED),  # the TOP_LOGPROBS best, or more, in no order
    ]
)
"""What `top_r1` leaves of one step, 2048 bytes, the layout of `imp::TopEntry` in stage/top_logits.h."""

Form = Literal["graph", "persistent"]
Prefill = Literal["f16", "w4a4"]
Pooling = Literal["none", "mean", "cls", "last"]
DType = Literal["f32", "f16", "i32", "u32", "u64", "u8"]
DTYPE_BYTES: dict[DType, int] = {"f32": 4, "f16": 2, "i32": 4, "u32": 4, "u64": 8, "u8": 1}


class PlanError(ImpError):
    """The plan does not have the form that this version of the runtime reads."""


def _one_line(text: str) -> str:
    if text != visible(text):
        raise PydanticCustomError("text", "it holds a control character")
    return text


def _this_version(version: int) -> int:
    if version != PLAN_VERSION:
        raise PydanticCustomError("version", f"this runtime reads {PLAN_VERSION}")
    return version


Text = Annotated[str, AfterValidator(_one_line)]


@dataclass(frozen=True, slots=True)
class Plane:
    """A packed weight tensor of the artifact.

    `layout` names how its bytes lie (only the compiler and the kernels understand it); `rows` x `cols` is the shape of
    the tensor it holds; `nbytes` is the unpadded length of the plane.
    """

    name: Text
    format: Text
    layout: Text
    rows: int
    cols: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """Device memory that the runtime allocates, zero-filled, when it loads a plan."""

    name: Text
    nbytes: int


@dataclass(frozen=True, slots=True)
class Binding:
    """A kernel argument: the address of a buffer, or with the prefix `weights/` of a plane, plus an offset in bytes."""

    buffer: Text
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """What a kernel leaves behind that `imp verify` can compare: graph value, where it lies, shape and type.

    With `buffer` `kv` it is part of every block of the group `group`, from `offset` on: the reader gathers them by the
    block table. `stride`: bytes from one row of the first axis to the next where others lie between them, else 0.
    """

    value: Text
    buffer: Text
    offset: int
    dtype: DType
    shape: tuple[int, ...]
    stride: int = 0
    group: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the first axis."""
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last."""
        return max(self.shape[0] - 1, 0) * (self.stride or self.row_bytes) + (self.row_bytes if self.shape[0] else 0)


@dataclass(frozen=True, slots=True)
class CacheRead:
    """`position_bytes` of the cache for each position of the sequence, or of its last `window` ones if there is one."""

    window: int
    position_bytes: int

    def nbytes(self, positions: int) -> int:
        """Bytes of a step that attends `positions` positions, its own included."""
        return self.position_bytes * (min(positions, self.window) if self.window else positions)


@dataclass(frozen=True, slots=True)
class Tiles:
    """What each CTA of a launch takes to the tensor cores, one after the other; for predictions.

    `kind`: what all such tiles have in common (a product's layout, attention's size of heads), by which cards know how
    long one takes; `mma`: the kind of instruction; `ops`: of one tile, two a multiplication. `steps`: tiles of a CTA;
    where they depend on the position 0, and a tile has `keys` of all positions or of the last `sight` of them. `ctas`:
    how many have tiles in a full run of one sequence, if not all. `shared`: other CTAs take what these have beyond so
    many tiles; 0: they do not.
    """

    kind: Text
    mma: Literal["int8", "f16", "half", "nvfp4"]
    ops: int
    steps: int
    keys: int = 0
    sight: int = 0
    ctas: int = 0
    shared: int = 0

    def count(self, positions: int) -> int:
        """Tiles of the CTA that has most, in a sequence of so many positions, those of this run included."""
        if not self.keys:
            return self.steps
        return -(-(min(positions, self.sight) if self.sight else positions) // self.keys)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch. `name` is unique in its program; `entry` is the symbol (layers share one). `args` are pointers.

    `overlap`: the kernel may begin while the one before it in the program still runs; it waits for it by itself.
    `phases`: steps inside it that each need all of the one before.
    `resident`: its blocks wait for one another, so the device must hold all of them at once; the entry then takes the
    pointers as one struct. `cache_reads`: what it reads of the cache. `tiles`: what it does on tensor cores, if most of
    its time is that.
    """

    name: Text
    entry: Text
    grid: tuple[int, int, int]
    block: int
    shared_bytes: int
    overlap: bool
    resident: bool
    args: tuple[Binding, ...]
    ops: tuple[Text, ...]
    outputs: tuple[Output, ...]
    phases: int
    weight_bytes: int
    other_bytes: int
    cache_reads: tuple[CacheRead, ...]
    tiles: Tiles | None
    flops: int


@dataclass(frozen=True, slots=True)
class Program:
    """An ordered list of kernels, captured as one CUDA graph. `rows`: the most that one run takes.

    `first_us` and `last_us`, of `forward_r*` of several rows: how long a full run of one sequence should take, of its
    first rows and of those up to the end of the context; 0 where nobody knows.
    `worth`, of `batch_r*`: how many sequences take a step together faster than one after the other, at least.
    """

    name: Text
    rows: int
    kernels: tuple[Kernel, ...]
    worth: int = 0
    first_us: float = 0.0
    last_us: float = 0.0


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """Everything that depends on the target: programs, scratch buffers and the artifact tensor that holds the code.

    `simulated`: the code runs on the CPU. `card`: what it is sized for, as a target's name has it after the colon;
    `sms`: its multiprocessors. `form`: how a step runs, as a graph of kernels or as one persistent kernel; `reason`:
    why, for people. `fallback`: programs of the other form, in place of those of the same names on a device that does
    not hold all blocks of a resident kernel at once.
    """

    target: Text
    simulated: bool
    card: Text
    sms: int
    code: Text
    form: Form
    reason: Text
    buffers: tuple[Buffer, ...]
    programs: tuple[Program, ...]
    fallback: tuple[Program, ...]

    def in_graph_form(self, reason: str) -> TargetPlan:
        """The same with the fallback programs, and why."""
        others = {program.name: program for program in self.fallback}
        programs = tuple(others.get(program.name, program) for program in self.programs)
        return dataclasses.replace(self, form="graph", reason=reason, programs=programs, fallback=())

    def program(self, name: str) -> Program:
        """The program called `name`; KeyError names those that exist."""
        for program in self.programs:
            if program.name == name:
                return program
        raise KeyError(f"no program {name!r}; this plan has {', '.join(p.name for p in self.programs)}")


@dataclass(frozen=True, slots=True)
class PagedState:
    """What a group of layers keeps of a sequence's positions, in blocks of BLOCK_TOKENS positions.

    The runtime hands blocks out and takes them back; what is in them only the compiler and the kernels know. Blocks of
    all groups have `Plan.block_bytes`, of which this one uses `nbytes`. With a `window` a row sees so many positions,
    its own the last of them, and what no row to come sees may be taken back; 0: all. `layers` and `format`, that of the
    rows, are for people.
    """

    layers: tuple[int, ...]
    format: Text
    window: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan. `quant`: the matrices' formats; `rounding`: what imp has made them of, where a file has others.

    `prefill`: what a prompt's activations become for products: halfs, or e2m1 with e4m3 scales where weights are that.
    `stop_tokens` end a generation; `bos_token` and `eos_token` are -1 where the model has none.

    `state`: the groups of layers, whose order is that of block tables. `block_bytes`: of a block of the cache.
    `add_bos` and `add_eos`: they stand around a text (behind it only where the text is to be embedded). `pooling`:
    which of a text's final hidden states is its embedding, or their mean; `none` gives it none.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")  # in all that is part of a plan

    version: Annotated[int, AfterValidator(_this_version)]
    model: Text
    architecture: Text
    quant: Text
    rounding: Text
    prefill: Prefill
    parameters: int
    vocab: int
    hidden: int
    layers: int
    context: int
    slots: int
    ledgers: int
    rows: int
    table_blocks: int
    decode_weight_bytes: int
    bos_token: int
    eos_token: int
    add_bos: bool
    add_eos: bool
    pooling: Pooling
    stop_tokens: tuple[int, ...]
    state: tuple[PagedState, ...]
    block_bytes: int
    planes: tuple[Plane, ...]
    targets: tuple[TargetPlan, ...]

    @property
    def weights(self) -> str:
        """Everything that a person should know of the weights' formats, and of what they are multiplied with."""
        prompts = "prompts W4A4" if self.prefill == "w4a4" else ""
        return ", ".join(filter(None, (self.quant, self.rounding, prompts)))

    def target(self, name: str) -> TargetPlan:
        """The plan for target `name`; PlanError names those that the artifact carries."""
        for target in self.targets:
            if target.target == name:
                return target
        have = ", ".join(t.target for t in self.targets)
        raise PlanError(f"the artifact has no code for {name}; it carries {have}")

    def to_json(self) -> str:
        """Deterministic JSON: sorted keys, no whitespace."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """Parse. Raises PlanError naming the first field that is missing, unknown or of the wrong type."""
        try:
            return _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            raise PlanError(f"plan.json: {_first_fault(error)}; compile the model again") from None


@functools.cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def _first_fault(error: ValidationError) -> str:
    """Which field is wrong and what it holds; the version before all else, as what comes with it may have changed."""
    faults = error.errors(include_url=False)
    first = next((fault for fault in faults if fault["loc"][:1] == ("version",)), faults[0])
    where = "plan" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
    match first["type"]:
        case "json_invalid":
            return f"not valid JSON: {first['ctx']['error']}"
        case "missing":
            return f"{where} is missing"
        case "unexpected_keyword_argument":
            return f"{visible(where)} is unknown"
    return f"{where} is {first['input']!r:.60}; {first['msg'][0].lower()}{first['msg'][1:]}"
