"""A device whose programs are a numpy model of the real ones: they read and write the state buffers of plan.py.

The next token is a hash of the token history found through KV cache and block table, of the seed and, with penalties,
of the counts in ledger.seen; so a wrong table, a block that two sequences share, a lost upload or a wrong order changes
tokens. Each group of layers has them in blocks of its own; what a window sees must be there.
Work is queued and runs late: when somebody waits, or at random.
"""

from __future__ import annotations

import math
import random
import zlib
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from tiny_artifact import ARGS, CONTEXT, HIDDEN, LEDGERS, ROWS, VOCAB

from imp_runtime.device import Launch
from imp_runtime.host_sampler import HostSampler
from imp_runtime.plan import (
    BIASED,
    BREAKER_WORDS,
    EXPORTED,
    LAST_TOKEN,
    LISTED,
    MASKED,
    MIROSTAT,
    NO_END,
    NO_LEDGER,
    RING,
    SAMPLING_DTYPE,
    TOP_DTYPE,
    TOP_ENTRIES,
)
from imp_runtime.sampling import SamplingParams


def next_token(
    history: Sequence[int],
    seed: int,
    temperature: float,
    counts: dict[int, tuple[int, int]] | None,
    allowed: Sequence[int] = range(VOCAB),
    bias: Sequence[float] | None = None,
    more: object = None,
) -> int:
    key = (
        more,
        list(history),
        seed if temperature > 0 else 0,
        sorted(counts.items()) if counts is not None else None,
        list(bias) if bias is not None else None,
    )
    return allowed[zlib.crc32(repr(key).encode()) % len(allowed)]


def further(record: np.ndarray, breakers: Sequence[int], surprise: float) -> object:
    """What else of a record a choice depends on, if it asks for anything of it."""
    names = ("typical_p", "xtc_probability", "dry_multiplier", "mirostat_tau", "dry_last_n", "dry_allowed_length")
    repeats, mirostat = record["dry_multiplier"] > 0, record["flags"] & MIROSTAT
    if not (repeats or mirostat or record["typical_p"] < 1 or record["xtc_probability"] > 0):
        return None
    ends, at = [], 0
    while repeats and breakers[at]:
        ends.append(breakers[at + 1 : at + 1 + breakers[at]])
        at += 1 + breakers[at]
    return [float(record[name]) for name in names], ends, surprise if mirostat else 0


def sieving(record: np.ndarray) -> bool:
    """Whether the filters of a record look at all candidates together."""
    filters = record["typical_p"] < 1 or record["xtc_probability"] > 0 or record["flags"] & MIROSTAT
    return bool(record["temperature"] > 0 and filters)


def surprised(surprise: float, token: int) -> float:
    return float(np.float32(surprise / 2 + token))


class Grammar:
    """A TokenMask: which tokens are allowed depends on all that came before. Free for `free` tokens, done after `end`.

    Its rule is in plain Python, so that tests apply it without masks; empty sets of tokens occur.
    """

    def __init__(self, free: int = 2, end: int = 10**9) -> None:
        self.free, self.end = free, end
        self.accepted: list[int] = []

    def allowed(self) -> list[int] | None:
        if len(self.accepted) < self.free:
            return None
        key = zlib.crc32(repr(self.accepted).encode())
        return [] if key % 11 == 0 else [t for t in range(VOCAB) if (t + key) % 5 == 0]

    def mask(self) -> np.ndarray | None:
        allowed = self.allowed()
        if allowed is None:
            return None
        words = [sum(1 << t % 32 for t in allowed if t // 32 == w) for w in range(-(-VOCAB // 32))]
        return np.array(words, np.uint32)

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def done(self) -> bool:
        return len(self.accepted) >= self.end


def expected(
    prompt: Sequence[int],
    params: SamplingParams,
    seed: int,
    limit: int,
    stop: Sequence[int],
    grammar: Grammar | None = None,
) -> tuple[list[int], str]:
    """What a sequence must generate, by plain lists."""
    history, generated = list(prompt), []
    stops = sorted({*stop, *params.stop_tokens})
    sampler, surprise = HostSampler(params, seed), 2 * params.mirostat_tau
    while True:
        allowed = list(range(VOCAB))
        done = grammar is not None and grammar.done()
        if grammar is not None and (rule := grammar.allowed()) is not None:
            allowed = rule or stops
        if len(generated) < params.min_tokens:
            allowed = [t for t in allowed if t not in stops] or allowed
        if done:
            allowed = stops
        if params.on_host:
            token = sampler.choose(logit_row(history), np.isin(np.arange(VOCAB), allowed), prompt, generated)
        else:
            token = device_choice(prompt, generated, params, seed, surprise, allowed)
            surprise = surprised(surprise, token)
        history.append(token)
        generated.append(token)
        if token in params.stop_tokens or (token in stop and (done or not params.ignore_eos)):
            return generated, "stop"
        if len(generated) == limit:
            return generated, "length"
        if grammar is not None:
            grammar.accept(token)


def device_choice(
    prompt: Sequence[int],
    generated: Sequence[int],
    params: SamplingParams,
    seed: int,
    surprise: float,
    allowed: Sequence[int] = range(VOCAB),
) -> int:
    bias = params.bias(VOCAB).tolist() if params.logit_bias else None
    counts = counts_of(prompt, generated, params) if params.penalises else None
    more = further(params.record(seed, NO_LEDGER)[0], params.breakers().tolist(), surprise)
    return next_token([*prompt, *generated], seed, params.temperature, counts, allowed, bias, more)


def counts_of(prompt: Sequence[int], generated: Sequence[int], params: SamplingParams) -> dict[int, tuple[int, int]]:
    """Of each token that the sequence has: times generated, and times in the window of the repetition penalty."""
    history = [*prompt, *generated] if params.repetition_penalty != 1 else []
    window = history if params.repeat_last_n < 0 else history[max(0, len(history) - params.repeat_last_n) :]
    return {t: (list(generated).count(t), window.count(t)) for t in {*generated, *window}}


def logit_row(history: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(repr(list(history)).encode())).standard_normal(VOCAB).astype(np.float32)


def hidden_row(history: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(repr(list(history)).encode())).random(HIDDEN).astype(np.float32)


class FakeModule:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def kernel(self, entry: str, shared_bytes: int) -> int:
        self.device.entries.append(entry)
        return len(self.device.entries) - 1


class FakeReplay:
    def __init__(self, device: FakeDevice, launches: Sequence[Launch]) -> None:
        self.device, self.launches = device, launches

    def launch(self) -> None:
        for launch in self.launches:
            self.device.launch(launch)


class FakeDevice:
    name = "fake"
    target = "fake"

    def __init__(
        self,
        seed: int = 0,
        memory: int = 1 << 40,
        table_blocks: int = 256,
        context: int = CONTEXT,
        ledgers: int = LEDGERS,
        windows: tuple[int, ...] = (0,),
    ) -> None:
        assert windows[0] == 0, "the first group has all that was ever run"
        self.windows = windows
        self.rng = random.Random(seed)
        self.memory = memory
        self.table_blocks = table_blocks
        self.context = context
        self.ledgers = ledgers
        self.regions: dict[int, np.ndarray] = {}
        self.entries: list[str] = []
        self.queue: deque[Callable[[], None]] = deque()
        self.uploads: list[tuple[int, int]] = []
        self.ran: list[str] = []
        self.closed = False
        self.blocks = 1  # that run at once
        self.top = 1 << 32
        self.forwarded: list[tuple[int, int]] = []  # of each row last run its slot, and the tokens of that with it

    def alloc(self, nbytes: int, name: str) -> int:
        address, self.top = self.top, self.top + -(-nbytes // 256) * 256 + 4096
        self.regions[address] = np.full(nbytes, 0xAB, np.uint8)
        self.memory -= nbytes
        return address

    def free(self, address: int) -> None:
        self.memory += len(self.regions.pop(address))

    def declare(self, address: int, nbytes: int, name: str) -> None:
        self.at(address, nbytes)

    def at(self, address: int, nbytes: int) -> np.ndarray:
        start = max(a for a in self.regions if a <= address)
        region = self.regions[start][address - start :]
        assert len(region) >= nbytes, "a copy leaves its allocation"
        return region[:nbytes]

    def push(self, work: Callable[[], None]) -> None:
        self.queue.append(work)
        while self.queue and self.rng.random() < 0.3:
            self.queue.popleft()()

    def upload(self, address: int, data: np.ndarray | bytes, offset: int = 0) -> None:
        copy = np.frombuffer(bytes(data) if isinstance(data, bytes) else data.tobytes(), np.uint8)
        self.uploads.append((address + offset, len(copy)))

        def work() -> None:
            self.at(address + offset, len(copy))[:] = copy

        self.push(work)

    def download(self, address: int, nbytes: int) -> np.ndarray:
        self.synchronize()
        return self.at(address, nbytes).copy()

    def zero(self, address: int, nbytes: int) -> None:
        self.upload(address, bytes(nbytes))

    def host_ring(self, nbytes: int) -> tuple[int, np.ndarray]:
        address = self.alloc(nbytes, "ring")
        self.regions[address][:] = 0
        return address, self.regions[address]

    def load_code(self, code: bytes) -> FakeModule:
        assert code == b"\x7fmachine code"
        return FakeModule(self)

    def room(self, launch: Launch) -> int:
        return self.blocks

    def launch(self, launch: Launch) -> None:
        assert not launch.resident or math.prod(launch.grid) <= self.blocks
        self.push(lambda: self.run(self.entries[launch.kernel], launch.args, launch.grid[1]))

    def capture(self, launches: Sequence[Launch]) -> FakeReplay:
        return FakeReplay(self, launches)

    def synchronize(self) -> None:
        while self.queue:
            self.queue.popleft()()

    def busy(self) -> bool:
        if self.queue:
            self.queue.popleft()()
        return bool(self.queue)

    def mark(self) -> list[bool]:
        passed: list[bool] = []
        self.push(lambda: passed.append(True))
        return passed

    def wait(self, mark: list[bool]) -> None:
        while not mark:
            self.queue.popleft()()

    def elapsed_ms(self, begin: object, end: object) -> float:
        return 1.0

    def memory_free(self) -> int:
        return self.memory

    def close(self) -> None:
        self.closed = True

    # the programs

    def run(self, entry: str, args: tuple[int, ...], several: int) -> None:
        self.ran.append(entry)
        entry = entry.removeprefix("resident_")
        address = dict(zip(ARGS, args, strict=False))

        def view(name: str, dtype: np.dtype | type, count: int, offset: int = 0) -> np.ndarray:
            size = np.dtype(dtype).itemsize
            return self.at(address[name] + offset * size, count * size).view(dtype)

        count, sequences, row, slot = view("step.rows", np.int32, 4).tolist()
        rows = view("step.rows", np.int32, 4 * count, 4).reshape(count, 4).tolist()
        assert entry in ("export", "top", "sample", "sample_sieve") or all(flags == 0 for *_, flags in rows)
        groups = len(self.windows)

        def cell(at: int, of: int = slot, group: int = 0) -> np.ndarray:
            size = self.table_blocks * groups
            block = int(view("seq.table", np.int32, size, of * size)[at // 16 * groups + group])
            assert block > 0, "block 0 belongs to nobody"
            return view("kv", np.int32, 1, block * 16 + at % 16)

        def history(end: int, of: int = slot) -> list[int]:
            return [int(cell(at, of)[0]) for at in range(end)]

        def run(each: list[int]) -> tuple[int, int]:
            """Puts the token of a row into the cache: its slot, and how many tokens that has with it."""
            of, offset, value, _ = each
            at = int(view("seq.position", np.int32, 1, of)[0]) + offset
            for group in range(groups):
                cell(at, of, group)[0] = value if value >= 0 else view("seq.token", np.int32, 1, of)[0]
            return of, at + 1

        def look(of: int, end: int) -> None:
            """What the windows of a row see is what was run."""
            for group, window in enumerate(self.windows):
                for at in range(max(end - window, 0), end) if window else ():
                    assert cell(at, of, group) == cell(at, of), f"window {window} of row {end - 1} lost {at}"

        def ledger(of: int, name: str, dtype: type, count: int) -> np.ndarray:
            """The sequence's row of what ledgers hold."""
            number = int(view("seq.sampling", SAMPLING_DTYPE, 1, of)[0]["ledger"])
            assert 0 <= number < self.ledgers
            return view(name, dtype, count, number * count)

        def export(of: int) -> None:
            ledger(of, "out.logits", np.float32, VOCAB)[:] = self.logits

        def top(of: int, index: int) -> None:
            top = view("out.top", TOP_DTYPE, 1, index % TOP_ENTRIES)
            top["count"], top["peak"] = VOCAB, self.logits.max()
            top["chosen"] = self.logits[view("seq.token", np.int32, 1, of)[0]]
            top["mass"] = int(np.exp(self.logits.astype(np.float64) - self.logits.max()).sum() * 2**32)
            top["listed"]["logit"][0, :VOCAB] = self.logits[::-1]
            top["listed"]["token"][0, :VOCAB] = np.arange(VOCAB)[::-1]

        def choose(of: int, index: int, entry: str, sieves: bool) -> None:
            position = view("seq.position", np.int32, 1, of)
            token = view("seq.token", np.int32, 1, of)
            sampling = view("seq.sampling", SAMPLING_DTYPE, 1, of)[0]
            surprise = view("seq.surprise", np.float32, 1, of)
            position += 1
            penalises = sampling["repetition_penalty"] != 1 or sampling["frequency_penalty"]
            penalises = penalises or sampling["presence_penalty"]
            if entry == "step" and not sieves:
                chooses = sampling["temperature"] != 0 or sampling["flags"] & (MASKED | BIASED | MIROSTAT) or penalises
                assert not chooses, "this program is greedy"
            counts = None
            if penalises:
                seen = ledger(of, "ledger.seen", np.uint32, 2 * VOCAB).reshape(VOCAB, 2)
                both = seen if sampling["repetition_penalty"] != 1 else seen * np.array([1, 0], np.uint32)
                counts = {int(t): (int(both[t, 0]), int(both[t, 1])) for t in np.flatnonzero(both.any(axis=1))}
            place, last_n = int(position[0]), int(sampling["repeat_last_n"])
            if sampling["dry_multiplier"] > 0 or (sampling["repetition_penalty"] != 1 and last_n > 0):
                assert ledger(of, "ledger.history", np.int32, self.context)[:place].tolist() == history(place, of)
            assert sieves == sieving(sampling)
            allowed = list(range(VOCAB))
            if sampling["flags"] & MASKED:
                mask = ledger(of, "ledger.mask", np.uint32, -(-VOCAB // 32)).tolist()
                allowed = [t for t in allowed if mask[t // 32] >> t % 32 & 1]
            bias = ledger(of, "ledger.bias", np.float32, VOCAB).tolist() if sampling["flags"] & BIASED else None
            breakers = (
                ledger(of, "ledger.breakers", np.int32, BREAKER_WORDS).tolist()
                if sampling["dry_multiplier"] > 0
                else []
            )
            token[0] = next_token(
                history(int(position[0]), of),
                int(sampling["seed"]),
                float(sampling["temperature"]),
                counts,
                allowed,
                bias,
                further(sampling, breakers, float(surprise[0])),
            )
            if sampling["ledger"] >= 0 and (sieves or entry != "step"):
                seen = ledger(of, "ledger.seen", np.uint32, 2 * VOCAB).reshape(VOCAB, 2)
                remembered = ledger(of, "ledger.history", np.int32, self.context)
                seen[token[0]] += np.uint32(1)
                remembered[place] = token[0]
                if 0 < last_n <= place:
                    seen[remembered[place - last_n], 1] -= np.uint32(1)
            surprise[0] = surprised(float(surprise[0]), int(token[0]))
            view("out.surprise", np.float32, RING)[index % RING] = surprise[0]
            view("out.ring", np.uint64, RING)[index % RING] = (index + 1) << 32 | int(token[0])

        if entry == "rows":
            assert 1 <= count <= ROWS
            self.forwarded = [run(each) for each in rows]
            for of, end in self.forwarded:
                look(of, end)
            at = ends = 0
            for first, n, of, end in view("step.sequences", np.int32, 4 * sequences, 8).reshape(-1, 4).tolist():
                assert (first, n >= 1, {slot for slot, *_ in rows[at : at + n]}) == (at, True, {of})
                assert [offset for _, offset, *_ in rows[at : at + n]] == list(range(n))
                at += n
                moved = view("seq.position", np.int32, 1, of)
                moved += n - (end != NO_END)
                assert end in (ends, NO_END)
                ends += end != NO_END
            assert at == count
            assert view("step.sequences", np.int32, 2).tolist() == [ends, sequences]
        elif entry in ("logits", "hidden", "head_several"):
            if entry == "head_several":
                lines = view("step.sequences", np.int32, 4 * sequences, 8).reshape(-1, 4).tolist()
                self.forwarded = [self.forwarded[first + n - 1] for first, n, _, end in lines if end != NO_END]
            entry = entry.replace("head_several", "logits")
            kind, width = {"logits": (logit_row, VOCAB), "hidden": (hidden_row, HIDDEN)}[entry]
            out = view(f"{entry}.all", np.float32, ROWS * width).reshape(ROWS, width)
            for i, (of, end) in enumerate(self.forwarded):
                out[i] = kind(history(end, of))
        elif entry == "head":
            of, end = self.forwarded[row]
            assert of == slot
            self.logits = logit_row(history(end))
        elif entry == "export":
            export(slot)
        elif entry == "top":
            top(slot, int(view("out.count", np.uint32, 1)[0]) - 1)
        elif entry.endswith("_several"):
            lines = view("step.sequences", np.int32, 4 * sequences, 8).reshape(-1, 4).tolist()
            ends = [of for _, _, of, end in lines if end != NO_END]
            assert [of for of, _ in self.forwarded] == ends
            first = int(view("step.sequences", np.uint32, 1, 4)[0])
            # The grid has a row for so many sequences; others have no end.
            for i, of in enumerate(of for _, _, of, end in lines[:several] if end != NO_END):
                self.logits = view("logits.all", np.float32, VOCAB, i * VOCAB).copy()
                record = view("seq.sampling", SAMPLING_DTYPE, 1, of)[0]
                if entry == "export_several" and record["flags"] & EXPORTED:
                    export(of)
                elif entry == "top_several" and record["flags"] & LISTED:
                    top(of, first + i)
                elif entry in ("sample_several", "sieve_several") and sieving(record) == (entry == "sieve_several"):
                    choose(of, first + i, "sample", sieving(record))
                    if of == ends[-1]:
                        view("out.count", np.uint32, 1)[0] = first + len(ends)
        else:
            sieves = entry.endswith("sieve")
            entry = entry.removesuffix("_sieve")
            if entry != "sample":
                assert rows[0][:3] == [slot, 0, LAST_TOKEN]
                _, end = run(rows[0])
                look(slot, end)
                self.logits = logit_row(history(end))
            if entry == "forward":
                return
            chosen = view("out.count", np.uint32, 1)
            choose(slot, int(chosen[0]), entry, sieves)
            chosen += np.uint32(1)
