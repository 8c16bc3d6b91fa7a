"""Binds one target of a plan to a device: memory for planes, state and KV cache, code, one replay per program."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from imp_runtime.artifact import Artifact
from imp_runtime.device import Device, DeviceError, Launch, Module
from imp_runtime.errors import ImpError
from imp_runtime.paging import Paging, blocks_for
from imp_runtime.plan import (
    BLOCK_TOKENS,
    BREAKER_WORDS,
    LAST_TOKEN,
    NO_END,
    RING,
    SAMPLING_DTYPE,
    STEP_LINE,
    TOP_DTYPE,
    Binding,
    DType,
    Kernel,
    Output,
    Plan,
    Program,
    TargetPlan,
)
from imp_runtime.plan_check import WEIGHTS, state_sizes
from imp_runtime.timings import Timings

log = logging.getLogger("imp")

Progress = Callable[[str, int, int], None]
DTYPES: dict[DType, np.dtype[np.generic]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "i32": np.dtype("<i4"),
    "u32": np.dtype("<u4"),
    "u64": np.dtype("<u8"),
    "u8": np.dtype("u1"),
}
SIM_KV_BYTES = 64 << 20
# A model that has room for less than this is of no use; better to say so at load than in the middle of an answer.
LEAST_KV_TOKENS = 512
# For what comes after the cache: the graphs of all programs take 4 to 6 MiB (8B, both forms, by an H100's free memory),
# the rest is for the driver and for others. `kv_share` leaves more.
RESERVED_FREE_BYTES = 256 << 20
# Planes and buffers of one arena keep this distance, so that access checks see a kernel run from one into the next.
_GAP = 256
_UPLOAD_BYTES = 64 << 20
_TURN = 50e-6  # seconds; weights of an 8B took 0.94 and 0.65 s, with the usual 5 ms 1.00 and 0.95 (H200)
_FLAGS_OFFSET = 28  # of `flags` in SAMPLING_DTYPE


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads that copy get Python's lock at once from one that computes: a copy takes less than its usual 5 ms."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _nothing(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class ModelRunner:
    """A plan in device memory. It knows programs and buffers; what they compute is the compiler's business.

    `kv_tokens` asks for a KV cache of that many tokens; without it the cache takes what `plan.slots` sequences of full
    context need, or what is free where that is less; in either case it gets `kv_share` of what weights and code leave.
    `progress(step, done, total)` is called while loading. With `check_weights` the weights are compared with their
    checksums meanwhile. Raises ImpError when they differ, or when the weights, or the weights and one sequence of
    reasonable length, do not fit.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: Device,
        kv_tokens: int | None = None,
        progress: Progress | None = None,
        *,
        kv_share: float = 1.0,
        check_weights: bool = True,
        timings: Timings | None = None,
    ) -> None:
        self.artifact = artifact
        self.device = device
        self.plan: Plan = artifact.plan
        self.paging = Paging.of(artifact.plan)
        self.target: TargetPlan = artifact.plan.target(device.target)
        self._addresses: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        # (address, bytes) of what a step reads: the weights, the KV cache
        self.arenas: tuple[tuple[int, int], ...] = ()
        progress = progress or _nothing
        timings = timings or Timings()
        try:
            compared = artifact.compared() if check_weights else nullcontext()
            with timings.step("checksums, beyond the weights"), compared, timings.step("weights"), _short_turns():
                self._load_planes(progress)
            with timings.step("state and scratch buffers"):
                self._allocate_state()
            with timings.step("code"):
                module = device.load_code(artifact.read(self.target.code))
            with timings.step("KV cache"):
                self.blocks = self._allocate_kv(kv_tokens, kv_share)
            with timings.step("kernels"):
                self.target = self._fitting(module)
                self._launches = {p.name: tuple(self.bind(k, module) for k in p.kernels) for p in self.target.programs}
            self._replays = {}
            self._several: dict[str, list[Program]] = {}
            for program in sorted(self.target.programs, key=lambda p: p.rows):
                if program.rows > 1:
                    self._several.setdefault(program.name.rsplit("_r", 1)[0], []).append(program)
            with timings.step("graphs"):
                for i, (name, launches) in enumerate(self._launches.items()):
                    progress("capturing programs", i, len(self._launches))
                    self._replays[name] = device.capture(launches)
                progress("capturing programs", len(self._launches), len(self._launches))
            with timings.step("what the device is still at"):
                device.synchronize()
        except BaseException:
            device.close()
            raise

    def _fitting(self, module: Module) -> TargetPlan:
        """The target's plan, with the fallback where the device lacks room for a resident kernel."""
        for kernel in (kernel for program in self.target.programs for kernel in program.kernels if kernel.resident):
            blocks, room = math.prod(kernel.grid), self.device.room(self.bind(kernel, module))
            if blocks > room:
                reason = f"{self.device.name} runs {room} of the {blocks} CTAs at once that one kernel would need"
                log.warning("%s decodes as a graph of kernels: %s", self.plan.model, reason)
                return self.target.in_graph_form(reason)
        return self.target

    def _load_planes(self, progress: Progress) -> None:
        planes = {WEIGHTS + plane.name: plane.nbytes for plane in self.plan.planes}
        total = sum(planes.values())
        free = self.device.memory_free()
        if total > free:
            raise DeviceError(
                f"{self.artifact.path}: the weights need {total:,} bytes, {self.device.name} has {free:,} free; "
                "close what else uses it or compile a smaller quantisation"
            )
        self.arenas += (self._place("weights", planes),)
        done = 0
        progress("loading weights", 0, total)
        for plane in self.plan.planes:
            data = self.artifact.plane(plane.name)
            for at in range(0, plane.nbytes, _UPLOAD_BYTES):
                piece = data[at : at + _UPLOAD_BYTES]
                self.device.upload(self._addresses[WEIGHTS + plane.name], piece, at)
                done += piece.nbytes
                progress("loading weights", done, total)

    def _allocate_state(self) -> None:
        sizes = state_sizes(self.plan) | {buffer.name: buffer.nbytes for buffer in self.target.buffers}
        pinned = {name: sizes.pop(name) for name in ("out.ring", "out.surprise", "out.logits", "out.top")}
        address, nbytes = self._place("state and scratch buffers", sizes)
        self.device.zero(address, nbytes)
        views: dict[str, npt.NDArray[np.uint8]] = {}
        for name, size in pinned.items():
            self._addresses[name], views[name] = self.device.host_ring(size)
            self._sizes[name] = size
            self.device.declare(self._addresses[name], size, name)
        self.ring: npt.NDArray[np.uint64] = views["out.ring"].view(np.uint64)
        assert len(self.ring) == RING
        # [RING]; what is written here comes before the ring's entry at the same place.
        self.surprise_limits: npt.NDArray[np.float32] = views["out.surprise"].view(np.float32)
        # [ledgers, vocab]; what kernels write here can be read once a mark after them has passed.
        self.logits = views["out.logits"].view(np.float32).reshape(self.plan.ledgers, self.plan.vocab)
        # TOP_DTYPE [TOP_ENTRIES], likewise
        self.top = views["out.top"].view(TOP_DTYPE)

    def _allocate_kv(self, kv_tokens: int | None, kv_share: float) -> int:
        """Allocate the cache; the number of its blocks, block 0 included."""
        if not 0 < kv_share <= 1:
            raise ImpError(f"kv_share is {kv_share:g}, expected more than 0 and at most 1")
        plan, paging, block_bytes = self.plan, self.paging, self.plan.block_bytes
        most = plan.slots * paging.longest
        least = blocks_for(min(plan.context, LEAST_KV_TOKENS))
        free = int((self.device.memory_free() - RESERVED_FREE_BYTES) * kv_share)
        if kv_tokens is not None:
            if kv_tokens < 2 * BLOCK_TOKENS:
                raise ImpError(f"kv_tokens is {kv_tokens}, expected at least {2 * BLOCK_TOKENS}")
            least = min(most, blocks_for(kv_tokens))
            blocks = paging.blocks(least)
        else:
            allowed = min(free, SIM_KV_BYTES) if self.target.simulated else free
            # Where the cap for the simulator is below the least, it is only a wish.
            room = max(allowed // block_bytes - 1, min(paging.blocks(least), free // block_bytes - 1))
            blocks = min(paging.blocks(most), room)
        if blocks < paging.blocks(least) or (blocks + 1) * block_bytes > free:
            raise DeviceError(
                f"{self.artifact.path}: a KV cache of {least * BLOCK_TOKENS} tokens needs "
                f"{(paging.blocks(least) + 1) * block_bytes:,} bytes, {self.device.name} has {max(0, free):,} left; "
                "close what else uses it, ask for fewer kv_tokens or compile a smaller quantisation"
            )
        nbytes = (blocks + 1) * block_bytes
        cache = self._place("KV cache", {"kv": nbytes})
        self.device.zero(cache[0], nbytes)
        self.arenas += (cache,)
        return blocks + 1

    def _place(self, what: str, sizes: Mapping[str, int]) -> tuple[int, int]:
        """One allocation that holds all of `sizes`, each 256-byte aligned; its address and length."""
        offsets: dict[str, int] = {}
        total = 0
        for name, nbytes in sizes.items():
            offsets[name] = total
            total += -(-nbytes // 256) * 256 + _GAP
        address = self.device.alloc(max(total, _GAP), what)
        for name, offset in offsets.items():
            self._addresses[name] = address + offset
            self._sizes[name] = sizes[name]
            self.device.declare(address + offset, sizes[name], name)
        return address, max(total, _GAP)

    def bind(self, kernel: Kernel, module: Module) -> Launch:
        """A launch of a kernel that is in `module`, with the addresses of the buffers and planes here."""
        handle = module.kernel(kernel.entry, kernel.shared_bytes)
        args = tuple(self.address(binding) for binding in kernel.args)
        shape = (kernel.grid, kernel.block, kernel.shared_bytes)
        return Launch(kernel.name, handle, *shape, args, kernel.overlap, kernel.resident)

    def address(self, binding: Binding) -> int:
        """Where the bytes that `binding` names lie on the device."""
        return self._addresses[binding.buffer] + binding.offset

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds, of as few sequences as can have so many.

        Where layers have windows, more short ones take more of it.
        """
        return self.paging.places(self.blocks - 1, self.plan.slots * self.paging.longest) * BLOCK_TOKENS

    @property
    def programs(self) -> Sequence[Program]:
        """The programs of this target."""
        return self.target.programs

    def programs_of(self, kind: str) -> Sequence[Program]:
        """The programs `<kind>_r*` of several rows, the smallest first."""
        return self._several.get(kind, [])

    def program_for(self, kind: str, rows: int) -> Program:
        """Of the programs `<kind>_r*` of several rows the smallest that takes `rows`, else the largest.

        ImpError without any.
        """
        found = self.programs_of(kind)
        if not found:
            raise ImpError(f"{self.artifact.path}: has no {kind}_r program of several rows; compile the model again")
        return next((p for p in found if p.rows >= rows), found[-1])

    def launches(self, program: str) -> tuple[Launch, ...]:
        """The launches of a program, with their addresses."""
        return self._launches[program]

    def run(self, program: str) -> None:
        """Enqueue a program; does not wait."""
        self._replays[program].launch()

    def write(self, buffer: str, data: npt.NDArray[np.generic], offset: int = 0) -> None:
        """Upload `data` into a buffer at `offset` bytes, in stream order."""
        if offset < 0 or offset + data.nbytes > self._sizes[buffer]:
            raise ValueError(f"{data.nbytes} bytes at {offset} do not fit {buffer}, which has {self._sizes[buffer]}")
        self.device.upload(self._addresses[buffer], data, offset)

    def read(self, buffer: str, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> npt.NDArray[np.generic]:
        """A buffer's content as an array, after all work enqueued so far."""
        nbytes = math.prod(shape) * DTYPES[dtype].itemsize
        if offset < 0 or offset + nbytes > self._sizes[buffer]:
            raise ValueError(f"{nbytes} bytes at {offset} leave {buffer}, which has {self._sizes[buffer]}")
        return self.device.download(self._addresses[buffer] + offset, nbytes).view(DTYPES[dtype]).reshape(shape)

    def write_step(self, slot: int) -> None:
        """The next programs of one row run what the slot's sequence has chosen last, and choose its next token."""
        self.write("step.rows", np.array([(1, 1, 0, slot), (slot, 0, LAST_TOKEN, 0)], "<i4"))

    def write_rows(self, sequences: Sequence[tuple[int, Sequence[int], bool]], index: int = 0) -> None:
        """What the next programs of several rows run.

        Of each sequence its slot, its tokens from where it stands, and whether one is chosen after them. `index`: how
        many tokens have been chosen before these.
        """
        slots, counts = [slot for slot, _, _ in sequences], [len(tokens) for _, tokens, _ in sequences]
        firsts = [0, *accumulate(counts)]
        lines, ends = [], 0
        for (slot, tokens, samples), first in zip(sequences, firsts[:-1], strict=True):
            lines.append((first, len(tokens), slot, ends if samples else NO_END))
            ends += samples
        header = ((ends, len(lines), 0, 0), (index, 0, 0, 0))
        self.write("step.sequences", np.array([*header, *lines], "<i8").astype("<i4"))  # the index is a u32
        # By columns: of a long prompt, a tuple for each row would take milliseconds while the device waits.
        rows = np.zeros((1 + firsts[-1], 4), "<i4")
        rows[0, :2] = firsts[-1], len(lines)
        rows[1:, 0] = np.repeat(slots, counts)
        rows[1:, 1] = np.arange(firsts[-1]) - np.repeat(firsts[:-1], counts)
        rows[1:, 2] = [token for _, tokens, _ in sequences for token in tokens]
        self.write("step.rows", rows)

    def write_end(self, row: int, slot: int) -> None:
        """Of the rows that have been run, the one whose logits are wanted, and the slot of its sequence."""
        self.write("step.rows", np.array([row, slot], "<i4"), STEP_LINE // 2)

    def write_slot(self, slot: int, position: int, table: Sequence[int], sampling: npt.NDArray[np.void]) -> None:
        """Set up a sequence in a slot: block table, and its SAMPLING_DTYPE record as a scalar array."""
        assert sampling.dtype == SAMPLING_DTYPE
        self.write("seq.position", np.array([position], "<i4"), 4 * slot)
        self.write("seq.sampling", sampling, SAMPLING_DTYPE.itemsize * slot)
        self.write_table(slot, 0, table)

    def write_surprise_limit(self, slot: int, bits: float) -> None:
        """Mirostat's state."""
        self.write("seq.surprise", np.array([bits], "<f4"), 4 * slot)

    def write_flags(self, slot: int, flags: int) -> None:
        """Change the flags of a slot's sampling record."""
        at = SAMPLING_DTYPE.itemsize * slot + _FLAGS_OFFSET
        self.write("seq.sampling", np.array([flags], "<u4"), at)

    def write_seen(self, ledger: int, seen: npt.NDArray[np.uint32]) -> None:
        """How often the sequence of a ledger has each token: uint32 [vocab, 2]."""
        self.write("ledger.seen", seen, 8 * ledger * self.plan.vocab)

    def write_history(self, ledger: int, tokens: npt.NDArray[np.int32], breakers: npt.NDArray[np.int32]) -> None:
        """The tokens of a ledger's sequence, and the beginning of its row of breakers."""
        self.write("ledger.history", tokens, 4 * ledger * self.plan.context)
        self.write("ledger.breakers", breakers, 4 * ledger * BREAKER_WORDS)

    def write_mask(self, ledger: int, mask: npt.NDArray[np.uint32]) -> None:
        """Which tokens a ledger's sequence may choose: uint32 [ceil(vocab / 32)]."""
        assert mask.shape == (-(-self.plan.vocab // 32),)
        self.write("ledger.mask", mask, mask.nbytes * ledger)

    def write_bias(self, ledger: int, bias: npt.NDArray[np.float32]) -> None:
        """What is added to the logits of a ledger's sequence: float32 [vocab]."""
        self.write("ledger.bias", bias, 4 * ledger * self.plan.vocab)

    def write_token(self, slot: int, token: int) -> None:
        """The token that the slot's next step begins with."""
        self.write("seq.token", np.array([token], "<i4"), 4 * slot)

    def write_table(self, slot: int, first: int, blocks: Sequence[int]) -> None:
        """From place `first` of a slot's block table on, the blocks of all groups at each place."""
        at = (slot * self.plan.table_blocks + first) * len(self.plan.state)
        self.write("seq.table", np.array(blocks, "<i4"), 4 * at)

    def read_table(self, slot: int, places: int) -> npt.NDArray[np.int64]:
        """The first `places` of a slot's block table: [places, groups]."""
        groups = len(self.plan.state)
        at = 4 * slot * self.plan.table_blocks * groups
        return self.read("seq.table", "i32", (places, groups), at).astype(np.int64)

    def read_blocks(self, slot: int, group: int, offset: int, nbytes: int, tokens: int) -> npt.NDArray[np.uint8]:
        """Of each of a group's blocks that hold a sequence's first `tokens` positions, in order, a part of its bytes.

        uint8[blocks, nbytes], from `offset` of a block on.
        """
        table = self.read_table(slot, blocks_for(tokens))
        at = [int(block) * self.plan.block_bytes + offset for block in table[:, group]]
        parts = [self.read("kv", "u8", (nbytes,), each) for each in at]
        return np.stack(parts).astype(np.uint8)

    def trace(self, program: str) -> Iterator[tuple[Kernel, dict[str, npt.NDArray[np.generic]]]]:
        """Run a program of rows of one sequence kernel by kernel; after each, its declared outputs by value name.

        A `kv` output is its part of every block up to and including the positions of this run, as `read_blocks` has it.
        """
        spec = self.target.program(program)
        rows, slot = (int(self.read("step.rows", "i32", (1,), at).astype(np.int64)[0]) for at in (0, STEP_LINE))
        position = int(self.read("seq.position", "i32", (1,), 4 * slot).astype(np.int64)[0])
        tokens = position + min(rows, spec.rows)

        def outcome(output: Output) -> npt.NDArray[np.generic]:
            if output.buffer == "kv":
                return self.read_blocks(slot, output.group, output.offset, math.prod(output.shape), tokens)
            if not output.stride:
                return self.read(output.buffer, output.dtype, output.shape, output.offset)
            lines = np.zeros(output.shape[0] * output.stride, np.uint8)
            lines[: output.nbytes] = self.read(output.buffer, "u8", (output.nbytes,), output.offset)
            rows = np.ascontiguousarray(lines.reshape(-1, output.stride)[:, : output.row_bytes])
            return rows.view(DTYPES[output.dtype]).reshape(output.shape)

        for kernel, launch in zip(spec.kernels, self._launches[program], strict=True):
            self.device.launch(launch)
            self.device.synchronize()
            yield kernel, {output.value: outcome(output) for output in kernel.outputs}

    def close(self) -> None:
        """Give the device back."""
        self.device.close()
