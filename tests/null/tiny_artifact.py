"""A small artifact of the real form whose kernels are names that the fake device of these tests understands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from imp_runtime.artifact_writer import write_artifact
from imp_runtime.plan import (
    PLAN_VERSION,
    STEP_SAMPLED,
    STEPS,
    Binding,
    Buffer,
    CacheRead,
    Kernel,
    Output,
    PagedState,
    Plan,
    Plane,
    Program,
    TargetPlan,
)

VOCAB = 61
HIDDEN = 8
STOP = 7
SLOTS = 8
LEDGERS = 5
ROWS = 24
CONTEXT = 4096
ARGS = (
    "step.rows",
    "step.sequences",
    "seq.token",
    "seq.position",
    "seq.table",
    "seq.sampling",
    "ledger.seen",
    "out.count",
    "out.ring",
    "kv",
    "logits.all",
    "hidden.all",
    "ledger.mask",
    "ledger.bias",
    "out.logits",
    "out.top",
    "ledger.history",
    "ledger.breakers",
    "seq.surprise",
    "out.surprise",
)


def kernel(entry: str, outputs: tuple[Output, ...] = (), ends: int = 2) -> Kernel:
    args = (*(Binding(name) for name in ARGS), Binding("weights/embed", 4), Binding("weights/head"))
    reads = (CacheRead(0, 4),)
    return Kernel(
        entry, entry, (3, ends, 1), 64, 1024, False, False, args, ("op",), outputs, 1, 300, 10, reads, None, 20
    )


def make_plan(
    *,
    slots: int = SLOTS,
    ledgers: int = LEDGERS,
    context: int = CONTEXT,
    rows: int = ROWS,
    windows: tuple[int, ...] = (0,),
) -> Plan:
    programs = (
        Program("step_r1", 1, (kernel("step", (Output("x", "logits.all", 4, "f32", (2, 3)),)),)),
        *(Program(name, 1, (kernel("step_sampled"),)) for name in STEP_SAMPLED.values()),
        Program("step_sieve_r1", 1, (kernel("step_sieve"),)),
        Program("forward_r1", 1, (kernel("forward"),)),
        Program("head_r1", 1, (kernel("head"),)),
        Program("sample_r1", 1, (kernel("sample"),)),
        Program("sieve_r1", 1, (kernel("sample_sieve"),)),
        Program("export_r1", 1, (kernel("export"),)),
        Program("top_r1", 1, (kernel("top"),)),
        Program(f"hidden_r{rows}", rows, (kernel("hidden"),)),
        Program("forward_r8", min(8, rows), (kernel("rows"),)),
        Program(f"forward_r{rows + 1}", rows, (kernel("rows"),)),
        Program(f"logits_r{rows}", rows, (kernel("logits"),)),
    )
    buffers = (Buffer("hidden.all", 4 * rows * HIDDEN), Buffer("logits.all", 4 * rows * VOCAB))
    return Plan(
        version=PLAN_VERSION,
        model="tiny",
        architecture="none",
        quant="Q8_0",
        parameters=1000,
        vocab=VOCAB,
        hidden=HIDDEN,
        layers=1,
        context=context,
        slots=slots,
        ledgers=min(ledgers, slots),
        rows=rows,
        table_blocks=-(-context // 16),
        rounding="",
        prefill="f16",
        decode_weight_bytes=300,
        bos_token=-1,
        eos_token=STOP,
        add_bos=False,
        add_eos=False,
        pooling="mean",
        stop_tokens=(STOP,),
        state=tuple(PagedState((layer,), "f16", window, 64) for layer, window in enumerate(windows)),
        block_bytes=64,
        planes=(Plane("embed", "Q8_0", "q8_0", 8, 32, 300), Plane("head", "F32", "vector", 1, 64, 256)),
        targets=(TargetPlan("fake", False, "6", 6, "code/fake", "graph", "as asked for", buffers, programs, ()),),
    )


def in_one_kernel(plan: Plan, ctas: int = 6) -> Plan:
    """The plan with a step in the persistent form, CTAs that wait for one another; its graph is the fallback."""
    target = plan.targets[0]
    fallback = tuple(p for p in target.programs if p.name in STEPS)
    resident = {
        p.name: dataclasses.replace(
            p,
            kernels=tuple(
                dataclasses.replace(k, entry=f"resident_{k.entry}", resident=True, grid=(ctas, 1, 1)) for k in p.kernels
            ),
        )
        for p in fallback
    }
    programs = tuple(resident.get(p.name, p) for p in target.programs)
    changed = dataclasses.replace(target, form="persistent", sms=ctas, programs=programs, fallback=fallback)
    return dataclasses.replace(plan, targets=(changed,))


def plane_bytes(plan: Plan) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    return {plane.name: rng.integers(1, 256, plane.nbytes, np.uint8).tobytes() for plane in plan.planes}


BLOBS = {"code/fake": b"\x7fmachine code", "tokenizer.json": b"{}" * 200, "chat_template.jinja": b""}
METADATA = {"imp_version": "0.1.0", "by": "hand"}


def write_tiny(path: Path, plan: Plan | None = None, **sizes: int) -> Path:
    plan = plan or make_plan(**sizes)
    content = plane_bytes(plan)
    write_artifact(path, plan, BLOBS, METADATA, ((name, [data[:100], data[100:]]) for name, data in content.items()))
    return path


def with_kernel(plan: Plan, **changes: object) -> Plan:
    """The plan with fields of its first kernel replaced."""
    target = plan.targets[0]
    program = target.programs[0]
    changed = dataclasses.replace(program.kernels[0], **changes)
    program = dataclasses.replace(program, kernels=(changed,))
    return dataclasses.replace(plan, targets=(dataclasses.replace(target, programs=(program, *target.programs[1:])),))
