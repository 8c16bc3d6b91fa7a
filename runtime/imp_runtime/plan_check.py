"""What a plan must satisfy before anything is allocated or launched: numbers in range, every pointer inside its memory.

The compiler runs these checks when it writes an artifact, the runtime when it opens one, so that a damaged plan ends in
an error and never in a wild pointer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from imp_runtime.plan import (
    BLOCK_TOKENS,
    BREAKER_WORDS,
    MAX_SMS,
    RING,
    SAMPLING_DTYPE,
    SEQUENCES_HEADER,
    STEP_LINE,
    STEPS,
    TOP_DTYPE,
    TOP_ENTRIES,
    Binding,
    Kernel,
    Plan,
    PlanError,
    TargetPlan,
)
from imp_runtime.text import plain_name

MAX_ARGS = 24
MAX_GROUPS = 64
MAX_PACKED_ARGS = 4095  # CUDA's limit: 32,764 bytes of parameters
MAX_BLOCK_THREADS = 1024
MAX_SHARED_BYTES = 227 * 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCKS_LAUNCHED = 2**31 - 1
MAX_BUFFER_BYTES = 1 << 44
MAX_US = 1e9  # of a program, as it is predicted
WEIGHTS = "weights/"
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,511}")


def state_sizes(plan: Plan) -> dict[str, int]:
    """Bytes of every state buffer that the runtime keeps for `plan`, except `kv`, whose size it chooses at load."""
    return {
        "step.rows": STEP_LINE * (1 + plan.rows),
        "step.sequences": SEQUENCES_HEADER + STEP_LINE * plan.rows,
        "seq.token": 4 * plan.slots,
        "seq.position": 4 * plan.slots,
        "seq.table": 4 * plan.slots * plan.table_blocks * len(plan.state),
        "seq.sampling": SAMPLING_DTYPE.itemsize * plan.slots,
        "seq.surprise": 4 * plan.slots,
        "ledger.mask": 4 * plan.ledgers * -(-plan.vocab // 32),
        "ledger.bias": 4 * plan.ledgers * plan.vocab,
        "ledger.seen": 8 * plan.ledgers * plan.vocab,
        "ledger.history": 4 * plan.ledgers * plan.context,
        "ledger.breakers": 4 * plan.ledgers * BREAKER_WORDS,
        "out.count": 4,
        "out.ring": 8 * RING,
        "out.logits": 4 * plan.ledgers * plan.vocab,
        "out.surprise": 4 * RING,
        "out.top": TOP_DTYPE.itemsize * TOP_ENTRIES,
    }


def check_plan(plan: Plan) -> None:
    """Raises PlanError naming the first field whose value cannot be right."""
    if plan.model != plain_name(plan.model):
        raise PlanError(f"plan.json: model is {plan.model!r:.80}, which holds more than letters, digits and -_.,:+()@")
    for field, value, low, high in (
        ("parameters", plan.parameters, 0, 2**50),
        ("vocab", plan.vocab, 1, 2**24),
        ("hidden", plan.hidden, 1, 2**20),
        ("layers", plan.layers, 1, 2**16),
        ("context", plan.context, 2, 2**28),
        ("slots", plan.slots, 1, 4096),
        ("ledgers", plan.ledgers, 1, plan.slots),
        ("rows", plan.rows, 1, 2**16),
        ("table_blocks", plan.table_blocks, -(-plan.context // BLOCK_TOKENS), 2**24),
        ("decode_weight_bytes", plan.decode_weight_bytes, 0, MAX_BUFFER_BYTES),
        ("bos_token", plan.bos_token, -1, plan.vocab - 1),
        ("eos_token", plan.eos_token, -1, plan.vocab - 1),
        ("block_bytes", plan.block_bytes, 1, MAX_BUFFER_BYTES),
        ("state (groups)", len(plan.state), 1, MAX_GROUPS),
        *((f"state[{i}].window", group.window, 0, 2**28) for i, group in enumerate(plan.state)),
        *((f"state[{i}].nbytes", group.nbytes, 1, plan.block_bytes) for i, group in enumerate(plan.state)),
        *(("stop_tokens", token, 0, plan.vocab - 1) for token in plan.stop_tokens),
        *((f"planes[{p.name}].rows", p.rows, 1, 2**32) for p in plan.planes),
        *((f"planes[{p.name}].cols", p.cols, 1, 2**32) for p in plan.planes),
        *((f"planes[{p.name}].nbytes", p.nbytes, 1, MAX_BUFFER_BYTES) for p in plan.planes),
        *((f"state buffer {name}", size, 1, MAX_BUFFER_BYTES) for name, size in state_sizes(plan).items()),
    ):
        _in_range(field, value, low, high)
    _unique("planes", (p.name for p in plan.planes))
    _unique("targets", (t.target for t in plan.targets))
    for target in plan.targets:
        _check_target(plan, target)


def _check_target(plan: Plan, target: TargetPlan) -> None:
    where = f"targets[{target.target}]"
    _unique(f"{where}.buffers", (b.name for b in target.buffers))
    _in_range(f"{where}.sms", target.sms, 1, MAX_SMS)
    _unique(f"{where}.programs", (p.name for p in target.programs))
    _unique(f"{where}.fallback", (p.name for p in target.fallback))
    _check_fallback(where, target)
    sizes = {WEIGHTS + p.name: p.nbytes for p in plan.planes} | state_sizes(plan)
    for buffer in target.buffers:
        if buffer.name == "kv":
            raise PlanError(f"plan.json: {where}.buffers: kv is sized by the runtime and must not be listed")
        _in_range(f"{where}.buffers[{buffer.name}].nbytes", buffer.nbytes, 1, MAX_BUFFER_BYTES)
        if sizes.setdefault(buffer.name, buffer.nbytes) != buffer.nbytes:
            raise PlanError(
                f"plan.json: {where}.buffers[{buffer.name}].nbytes is {buffer.nbytes}, expected {sizes[buffer.name]}"
            )
    # Only offsets into the first block can be checked here: how many blocks there are is decided at load.
    sizes["kv"] = plan.block_bytes
    for program in (*target.programs, *target.fallback):
        _in_range(f"{where}.{program.name}.rows", program.rows, 1, plan.rows)
        _in_range(f"{where}.{program.name}.worth", program.worth, 0, program.rows)
        _in_range(f"{where}.{program.name}.first_us", program.first_us, 0, MAX_US)
        _in_range(f"{where}.{program.name}.last_us", program.last_us, program.first_us, MAX_US)
        if bool(program.worth) != program.name.startswith("batch_r"):
            raise PlanError(
                f"plan.json: {where}.{program.name}.worth is {program.worth}, but only batch_r* are for steps of "
                "several sequences; compile the model again"
            )
        _unique(f"{where}.{program.name}", (k.name for k in program.kernels))
        for kernel in program.kernels:
            _check_kernel(f"{where}.{program.name}.{kernel.name}", kernel, sizes, len(plan.state))


def _check_fallback(where: str, target: TargetPlan) -> None:
    """Where a step is one kernel, there are others for devices without room for it, of fewer resident kernels."""
    expected = sorted(STEPS) if target.form == "persistent" else []
    named = sorted(p.name for p in target.fallback)
    if named != expected:
        raise PlanError(
            f"plan.json: {where}.fallback has {named}, expected the programs that run a step, {expected}; "
            "compile the model again"
        )
    resident = {p.name: sum(kernel.resident for kernel in p.kernels) for p in target.programs}
    for program in target.fallback:
        if sum(kernel.resident for kernel in program.kernels) >= resident.get(program.name, 0):
            raise PlanError(
                f"plan.json: {where}.fallback.{program.name} has as many resident kernels as what it stands in for; "
                "compile the model again"
            )


def _check_kernel(where: str, kernel: Kernel, sizes: dict[str, int], groups: int) -> None:
    if not _SYMBOL.fullmatch(kernel.entry):
        raise PlanError(f"plan.json: {where}.entry is {kernel.entry!r:.80}, not a C symbol")
    for axis, value, high in zip("xyz", kernel.grid, MAX_GRID, strict=True):
        _in_range(f"{where}.grid.{axis}", value, 1, high)
    _in_range(f"{where}.grid (blocks in all)", math.prod(kernel.grid), 1, MAX_BLOCKS_LAUNCHED)
    _in_range(f"{where}.block", kernel.block, 1, MAX_BLOCK_THREADS)
    _in_range(f"{where}.shared_bytes", kernel.shared_bytes, 0, MAX_SHARED_BYTES)
    _in_range(f"{where}.args (count)", len(kernel.args), 0, MAX_PACKED_ARGS if kernel.resident else MAX_ARGS)
    for field, value, low, high in (
        ("phases", kernel.phases, 1, 2**20),
        ("weight_bytes", kernel.weight_bytes, 0, MAX_BUFFER_BYTES),
        ("other_bytes", kernel.other_bytes, 0, MAX_BUFFER_BYTES),
        ("flops", kernel.flops, 0, 2**63),
        *(
            (f"tiles.{name}", getattr(kernel.tiles, name), low, 2**31)
            for name, low in (("ops", 1), ("steps", 0), ("keys", 0), ("sight", 0), ("ctas", 0), ("shared", 0))
            if kernel.tiles
        ),
        *((f"cache_reads[{i}].window", read.window, 0, 2**28) for i, read in enumerate(kernel.cache_reads)),
        *(
            (f"cache_reads[{i}].position_bytes", read.position_bytes, 0, MAX_BUFFER_BYTES)
            for i, read in enumerate(kernel.cache_reads)
        ),
    ):
        _in_range(f"{where}.{field}", value, low, high)
    for i, binding in enumerate(kernel.args):
        _check_binding(f"{where}.args[{i}]", binding, 1, sizes)
    for output in kernel.outputs:
        if any(not 0 <= n <= MAX_BUFFER_BYTES for n in output.shape) or not 1 <= len(output.shape) <= 8:
            raise PlanError(f"plan.json: {where}.outputs[{output.value}].shape is {list(output.shape)!r:.80}")
        if output.stride and not output.row_bytes <= output.stride <= MAX_BUFFER_BYTES:
            raise PlanError(
                f"plan.json: {where}.outputs[{output.value}].stride is {output.stride}, its rows have "
                f"{output.row_bytes} bytes"
            )
        _in_range(f"{where}.outputs[{output.value}].group", output.group, 0, groups - 1)
        place = Binding(output.buffer, output.offset)
        _check_binding(f"{where}.outputs[{output.value}]", place, output.nbytes, sizes)


def _check_binding(where: str, binding: Binding, nbytes: int, sizes: dict[str, int]) -> None:
    size = sizes.get(binding.buffer)
    if size is None:
        raise PlanError(f"plan.json: {where} names {binding.buffer!r:.80}, which is neither a buffer nor a plane")
    if binding.offset < 0 or binding.offset + nbytes > size:
        raise PlanError(
            f"plan.json: {where} reaches bytes {binding.offset}..{binding.offset + nbytes} of {binding.buffer}, "
            f"which has {size}"
        )


def _in_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise PlanError(f"plan.json: {field} is {value}, expected {low} to {high}; compile the model again")


def _unique(field: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"plan.json: {field} names {name!r:.80} twice; compile the model again")
        seen.add(name)
