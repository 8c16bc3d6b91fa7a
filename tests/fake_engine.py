"""An engine without a model: the runtime's API, a real `.impc` file, and tokens that the test chooses.

The artifact holds a plan of one tiny kernel and the byte-level tokenizer of the qwen3 fixture, built here from the GGUF
by gguf-py and `tokenizers`, not by the compiler.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import tokenizers

from imp_runtime.artifact import Artifact
from imp_runtime.artifact_writer import write_artifact
from imp_runtime.engine import RequestError
from imp_runtime.plan import (
    PLAN_VERSION,
    Binding,
    Buffer,
    CacheRead,
    Kernel,
    PagedState,
    Plan,
    Plane,
    Program,
    TargetPlan,
)
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence as Request
from imp_runtime.timings import Timings

GGUF = Path(__file__).parent / "fixtures" / "qwen3" / "qwen3-Q8_0.gguf"
IM_START, IM_END = 498, 499
CONTEXT = 512


@cache
def gguf_fields() -> dict[str, object]:
    return {name: field.contents() for name, field in gguf.GGUFReader(GGUF).fields.items()}


@cache
def reference_tokenizer() -> tokenizers.Tokenizer:
    """Byte-level BPE as Qwen publishes it; special tokens are those of type 3."""
    fields = gguf_fields()
    tokens, types, merges = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges"))
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    assert isinstance(merges, list)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = tokenizers.models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges])
    tokenizer = tokenizers.Tokenizer(model)
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    pattern = words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def encode(text: str) -> list[int]:
    return reference_tokenizer().encode(text, add_special_tokens=False).ids


def tiny_plan(**changes: object) -> Plan:
    kernel = Kernel(
        name="layer0.attention_norm",
        entry="imp_norm",
        grid=(2, 1, 1),
        block=32,
        shared_bytes=0,
        overlap=False,
        resident=False,
        args=(Binding("weights/embedding"), Binding("scratch", 256)),
        ops=("rmsnorm",),
        outputs=(),
        phases=1,
        weight_bytes=1000,
        other_bytes=24,
        cache_reads=(CacheRead(0, 256),),
        tiles=None,
        flops=2000,
    )
    second = dataclasses.replace(kernel, name="layer1.attention_norm", cache_reads=(CacheRead(6, 256),))
    programs = (Program("step_r1", 1, (kernel, second)), Program("forward_r16", 16, (kernel,)))
    plan = Plan(
        version=PLAN_VERSION,
        model="tiny",
        architecture="qwen3",
        quant="Q8_0",
        parameters=854_000,
        vocab=512,
        hidden=256,
        layers=2,
        context=CONTEXT,
        slots=4,
        ledgers=2,
        rows=16,
        table_blocks=CONTEXT // 16,
        rounding="",
        prefill="f16",
        decode_weight_bytes=2000,
        bos_token=-1,
        eos_token=IM_END,
        add_bos=False,
        add_eos=False,
        pooling="mean",
        stop_tokens=(IM_END,),
        state=(PagedState((0, 1), "f16", 0, 8192),),
        block_bytes=8192,
        planes=(Plane("embedding", "F32", "vector", 1, 64, 256),),
        targets=(
            TargetPlan(
                "sim", True, "sim", 2, "code/sim", "graph", "as asked for", (Buffer("scratch", 4096),), programs, ()
            ),
        ),
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]  # tests change any field


def write_tiny_artifact(path: Path, *, blobs: dict[str, bytes] | None = None, **changes: object) -> Artifact:
    """A small `.impc`; `blobs` replace the usual ones, `changes` are fields of the plan."""
    template = gguf_fields()["tokenizer.chat_template"]
    assert isinstance(template, str)
    contents = {
        "code/sim": b"not code",
        "source/sim.cu": b"// emitted source\n",
        "tokenizer.json": reference_tokenizer().to_str().encode(),
        "chat_template.jinja": template.encode(),
        **(blobs or {}),
    }
    planes = [("embedding", [bytes(256)])]
    write_artifact(path, tiny_plan(**changes), contents, {"imp_version": "0"}, planes)
    return Artifact.open(path)


@dataclasses.dataclass(frozen=True)
class Output:
    """What the engine's StepOutput has."""

    sequence: Request
    token: int
    finish: str | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass
class Run:
    """How far a sequence is in its reply, what has been injected, and what constrains it."""

    reply: Sequence[int]
    place: int = 0
    constraint: Any = None


class FakeEngine:
    """Answers every prompt with `reply(prompt)`, then the stop token for ever; one token of each sequence a step.

    A constraint is kept: a token that it forbids is replaced by one that it allows, the end where it can be, else no
    white space. The log-probability of a
    token is minus its id / 100, and the best others are the tokens 0, 1, 2...
    """

    def __init__(
        self, artifact: Artifact, reply: Callable[[Sequence[int]], Sequence[int]], *, seconds_per_step: float = 0.0
    ) -> None:
        self.artifact = artifact
        self.plan = artifact.plan
        self.target = "sim"
        self.device_name = "fake"
        self.context = artifact.plan.context
        self.runner = types.SimpleNamespace(
            target=artifact.plan.targets[0], kv_tokens=artifact.plan.context, blocks=artifact.plan.context // 16
        )
        self.timings = Timings()
        self.live: list[Request] = []
        self.prompts: list[tuple[int, ...]] = []
        self.params: list[SamplingParams] = []
        self.aborted = threading.Event()
        self.closed = False
        self.threads: set[int] = set()
        self.cached_tokens = 0
        self._runs: dict[int, Run] = {}
        self._reply = reply
        self._seconds = seconds_per_step

    @property
    def has_work(self) -> bool:
        return bool(self.live)

    @property
    def free(self) -> tuple[int, int]:
        return self.plan.slots - len(self.live), self.runner.blocks - 1

    def add(self, prompt: Sequence[int], params: SamplingParams, constraint: Any = None) -> Request:
        self.threads.add(threading.get_ident())
        if not prompt:
            raise RequestError("prompt is empty; give at least one token")
        for i, token in enumerate(prompt):
            if not 0 <= token < self.plan.vocab:
                raise RequestError(f"prompt[{i}] is {token}, expected a token id from 0 to {self.plan.vocab - 1}")
        limit = min(params.max_tokens, self.context - len(prompt))
        sequence = Request(len(self.prompts), tuple(prompt), params, 0, limit, prompt_cached=self.cached_tokens)
        self._runs[sequence.id] = Run(self._reply(prompt), constraint=constraint)
        self.live.append(sequence)
        self.prompts.append(tuple(prompt))
        self.params.append(params)
        return sequence

    def step(self) -> list[Output]:
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        # A sequence may be aborted in the middle of a step.
        return [self._next(sequence) for sequence in list(self.live) if sequence in self.live]

    def _next(self, sequence: Request) -> Output:
        run = self._runs[sequence.id]
        token = run.reply[run.place] if run.place < len(run.reply) else IM_END
        run.place += 1
        if run.constraint is not None:
            token = self._constrained(run, token)
        sequence.generated.append(token)
        stops = (*self.plan.stop_tokens, *sequence.params.stop_tokens)
        stopped = token in stops and not sequence.params.ignore_eos
        finish = "stop" if stopped else "length" if len(sequence.generated) >= sequence.limit else None
        if finish:
            self._drop(sequence)
        count = sequence.params.top_logprobs
        if count is None:
            return Output(sequence, token, finish)
        return Output(sequence, token, finish, -token / 100, tuple((i, -i / 100) for i in range(count)))

    def _constrained(self, run: Run, token: int) -> int:
        if run.constraint.done():
            return IM_END
        mask = run.constraint.mask()
        if mask is not None and not mask[token // 32] >> token % 32 & 1:
            run.place -= 1
            allowed = [int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]
            token = min(allowed, key=lambda each: (each != IM_END, reference_tokenizer().decode([each]).isspace()))
            if token == IM_END:
                return token
        run.constraint.accept(token)
        return token

    def inject(self, sequence: Request, tokens: Sequence[int]) -> None:
        """As if generated, and not delivered; the reply goes on behind the tokens where it has them."""
        sequence.generated += tokens
        run = self._runs[sequence.id]
        rest = list(run.reply[run.place :])
        places = [i for i in range(len(rest)) if rest[i : i + len(tokens)] == list(tokens)]
        run.place += places[0] + len(tokens) if places else 0

    def abort(self, sequence: Request) -> None:
        if self._drop(sequence):
            self.aborted.set()

    def _drop(self, sequence: Request) -> bool:
        try:
            self.live.remove(sequence)
        except ValueError:
            return False
        return True

    def hidden(self, tokens: Sequence[int], before_part: Callable[[], None] | None = None) -> npt.NDArray[np.float32]:
        rows = np.arange(self.plan.hidden, dtype=np.float32)
        return np.stack([np.cos(rows * (token + 1)) for token in tokens])

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        raise AssertionError("the server drives add and step itself")

    def logits(self, tokens: Sequence[int], before_part: Callable[[], None] | None = None) -> npt.NDArray[np.float32]:
        return np.tile(np.arange(self.plan.vocab, dtype=np.float32), (len(tokens), 1))

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
