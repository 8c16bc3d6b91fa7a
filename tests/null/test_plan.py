from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from tiny_artifact import in_one_kernel, make_plan, with_kernel

from imp_runtime.plan import (
    PLAN_VERSION,
    SAMPLING_DTYPE,
    STEPS,
    Binding,
    Buffer,
    CacheRead,
    Output,
    Plan,
    PlanError,
    Program,
    Tiles,
)
from imp_runtime.plan_check import check_plan, state_sizes


def test_json_round_trip_is_exact_and_deterministic() -> None:
    plan = make_plan()
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert json.loads(text)["targets"][0]["programs"][0]["kernels"][0]["grid"] == [3, 2, 1]
    check_plan(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("vocab"), "plan.vocab is missing"),
        (lambda raw: raw.update(extra=1), "plan.extra is unknown"),
        (lambda raw: raw["planes"][1].update(extra=1), r"plan.planes\[1\].extra is unknown"),
        (lambda raw: raw["planes"][1].update({"\x1b[2J": 1}), r"plan.planes\[1\].\\u001b\[2J is unknown"),
        (lambda raw: raw.update(vocab="61"), "plan.vocab is '61'; input should be a valid integer"),
        (lambda raw: raw.update(vocab=True), "plan.vocab is True; input should be a valid integer"),
        (lambda raw: raw.update(vocab=61.0), "plan.vocab is 61.0; input should be a valid integer"),
        (lambda raw: raw.update(vocab=float("nan")), "plan.vocab is nan; input should be a valid integer"),
        (lambda raw: raw.update(model=None), "plan.model is None; input should be a valid string"),
        (
            lambda raw: raw.update(version=PLAN_VERSION + 1),
            f"version is {PLAN_VERSION + 1}; this runtime reads {PLAN_VERSION}; compile the model again",
        ),
        (lambda raw: [raw.pop(key) for key in list(raw)], "plan.version is missing"),
        (lambda raw: raw.update(stop_tokens={}), "plan.stop_tokens is {}; input should be a valid array"),
        (lambda raw: raw["planes"].append(3), r"plan.planes\[2\] is 3; input should be an object"),
        (
            lambda raw: raw["targets"][0]["programs"][0]["kernels"][0].update(grid=[1, 2]),
            r"plan.targets\[0\].programs\[0\].kernels\[0\].grid\[2\] is missing",
        ),
        (
            lambda raw: raw["targets"][0]["programs"][0]["kernels"][0].update(grid=[1, 2, 3, 4]),
            r"kernels\[0\].grid is \[1, 2, 3, 4\]; tuple should have at most 3 items",
        ),
        (
            lambda raw: raw["targets"][0]["programs"][0]["kernels"][0]["outputs"][0].update(dtype="f64"),
            r"outputs\[0\].dtype is 'f64'; input should be 'f32', 'f16', 'i32', 'u32', 'u64' or 'u8'",
        ),
    ],
)
def test_wrong_json_names_the_field(change: Any, message: str) -> None:
    raw = json.loads(make_plan().to_json())
    change(raw)
    with pytest.raises(PlanError, match=message):
        Plan.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", [b"", b"[1]", b"\xff", b"[" * 100_000, b'{"version":1}', b"1" * 5000])
def test_what_is_no_plan(text: bytes) -> None:
    with pytest.raises(PlanError, match=r"^plan.json"):
        Plan.from_json(text)


def test_sizes_of_the_state() -> None:
    plan = make_plan(slots=3, ledgers=2, context=100, rows=24)
    assert state_sizes(plan) == {
        "step.rows": 16 * (1 + 24),
        "step.sequences": 32 + 16 * 24,
        "seq.token": 12,
        "seq.position": 12,
        "seq.table": 3 * 7 * 4,
        "seq.sampling": 3 * 88,
        "seq.surprise": 12,
        "ledger.mask": 2 * 8,
        "ledger.bias": 2 * 61 * 4,
        "ledger.seen": 2 * 61 * 8,
        "ledger.history": 2 * 100 * 4,
        "ledger.breakers": 2 * 4096,
        "out.count": 4,
        "out.ring": 8192,
        "out.surprise": 4096,
        "out.logits": 2 * 61 * 4,
        "out.top": 256 * 2048,
    }
    assert SAMPLING_DTYPE.itemsize == 88


def replaced(**changes: Any) -> Plan:
    return dataclasses.replace(make_plan(), **changes)


def with_target(**changes: Any) -> Plan:
    plan = make_plan()
    return dataclasses.replace(plan, targets=(dataclasses.replace(plan.targets[0], **changes),))


def with_worth(worth: int, name: str = "batch_r8") -> Plan:
    plan = make_plan()
    target = plan.targets[0]
    programs = (*target.programs, dataclasses.replace(target.program("forward_r8"), name=name, worth=worth))
    return dataclasses.replace(plan, targets=(dataclasses.replace(target, programs=programs),))


def with_args(*args: Binding) -> Plan:
    return with_kernel(make_plan(), args=args)


def with_output(output: Output) -> Plan:
    return with_kernel(make_plan(), outputs=(output,))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replaced(vocab=0), "vocab is 0"),
        (replaced(slots=10**9), "slots is 1000000000"),
        (replaced(ledgers=0), "ledgers is 0, expected 1 to 8"),
        (replaced(ledgers=9), "ledgers is 9, expected 1 to 8"),
        (replaced(table_blocks=3), "table_blocks is 3, expected 256"),
        (replaced(stop_tokens=(1, 61)), "stop_tokens is 61"),
        (replaced(bos_token=-2), "bos_token is -2"),
        (replaced(block_bytes=0), "block_bytes is 0"),
        (replaced(block_bytes=63), r"state\[0\].nbytes is 64, expected 1 to 63"),
        (replaced(state=()), r"state \(groups\) is 0, expected 1 to 64"),
        (replaced(state=make_plan(windows=(-1,)).state), r"state\[0\].window is -1"),
        (replaced(planes=make_plan().planes * 2), "planes names 'embed' twice"),
        (replaced(planes=(dataclasses.replace(make_plan().planes[0], nbytes=-5),)), r"planes\[embed\].nbytes is -5"),
        (with_target(programs=make_plan().targets[0].programs * 2), "programs names 'step_r1' twice"),
        (with_target(buffers=(Buffer("kv", 100),)), "kv is sized by the runtime"),
        (with_target(buffers=(Buffer("seq.token", 100),)), r"buffers\[seq.token\].nbytes is 100, expected 32"),
        (with_target(buffers=(Buffer("huge", 2**60),)), r"buffers\[huge\].nbytes is 1152921504606846976"),
        (with_kernel(make_plan(), grid=(1, 65536, 1)), "grid.y is 65536"),
        (with_kernel(make_plan(), grid=(2**30, 4, 1)), r"grid \(blocks in all\) is"),
        (with_kernel(make_plan(), block=1025), "block is 1025"),
        (with_kernel(make_plan(), shared_bytes=-1), "shared_bytes is -1"),
        (replaced(vocab=2**70), f"vocab is {2**70}, expected 1 to"),
        (with_kernel(make_plan(), phases=0), r"step_r1.step.phases is 0"),
        (with_kernel(make_plan(), weight_bytes=-1), r"weight_bytes is -1"),
        (with_kernel(make_plan(), other_bytes=2**60), r"other_bytes is 1152921504606846976"),
        (with_kernel(make_plan(), flops=-1), r"flops is -1"),
        (with_kernel(make_plan(), cache_reads=(CacheRead(-1, 4),)), r"cache_reads\[0\].window is -1"),
        (with_kernel(make_plan(), cache_reads=(CacheRead(0, -4),)), r"cache_reads\[0\].position_bytes is -4"),
        (with_kernel(make_plan(), tiles=Tiles("Q8_0", "int8", 0, 1)), r"tiles.ops is 0"),
        (with_kernel(make_plan(), tiles=Tiles("Q8_0", "int8", 1, -1)), r"tiles.steps is -1"),
        (with_kernel(make_plan(), tiles=Tiles("a", "f16", 1, 0, -1)), r"tiles.keys is -1"),
        (with_kernel(make_plan(), tiles=Tiles("a", "f16", 1, 0, 64, 2**40)), r"tiles.sight is 1099511627776"),
        (with_kernel(make_plan(), tiles=Tiles("a", "f16", 1, 0, ctas=-1)), r"tiles.ctas is -1"),
        (with_kernel(make_plan(), tiles=Tiles("a", "f16", 1, 0, shared=-1)), r"tiles.shared is -1"),
        (with_kernel(make_plan(), shared_bytes=1 << 20), "shared_bytes is 1048576"),
        (with_kernel(make_plan(), entry="x; rm"), "entry is 'x; rm', not a C symbol"),
        (with_worth(-1), r"batch_r8\.worth is -1"),
        (with_worth(9), r"batch_r8\.worth is 9"),
        (with_worth(0), r"batch_r8\.worth is 0, but only batch_r\* are for steps of several sequences"),
        (with_worth(2, "forward_r16"), r"forward_r16\.worth is 2, but only batch_r\* are for steps"),
        (with_args(Binding("nowhere")), "names 'nowhere', which is neither a buffer nor a plane"),
        (with_args(Binding("weights/gone")), "names 'weights/gone'"),
        (with_args(Binding("seq.token", -4)), "reaches bytes -4..-3 of seq.token, which has 32"),
        (with_args(Binding("seq.token", 32)), "reaches bytes 32..33 of seq.token"),
        (with_args(Binding("weights/embed", 300)), "of weights/embed, which has 300"),
        (with_args(Binding("kv", 64)), "of kv, which has 64"),
        (with_args(*[Binding("kv")] * 25), r"args \(count\) is 25"),
        (with_output(Output("x", "seq.token", 0, "i32", (9,))), "reaches bytes 0..36 of seq.token"),
        (with_output(Output("x", "seq.token", 0, "i32", (2**40, 2**40))), "of seq.token"),
        (with_output(Output("x", "seq.token", 0, "i32", (-1,))), "shape"),
        (with_output(Output("x", "seq.token", 0, "i32", ())), "shape"),
        (with_output(Output("x", "seq.token", 4, "i32", (3, 1), 16)), "reaches bytes 4..40 of seq.token"),
        (with_output(Output("x", "seq.token", 0, "i32", (2, 2), 4)), "stride is 4, its rows have 8 bytes"),
    ],
)
def test_a_plan_that_could_lead_astray_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(PlanError, match=re.compile(message)):
        check_plan(Plan.from_json(plan.to_json()))


def test_a_resident_kernel_takes_a_struct_of_many_pointers() -> None:
    many = (Binding("kv"),) * 4095
    persistent = in_one_kernel(make_plan())
    check_plan(with_kernel(persistent, args=many))
    with pytest.raises(PlanError, match=r"args \(count\) is 4096"):
        check_plan(with_kernel(persistent, args=(*many, Binding("kv"))))


def with_fallback(change: Callable[[tuple[Program, ...]], tuple[Program, ...]], plan: Plan | None = None) -> Plan:
    plan = plan or in_one_kernel(make_plan())
    target = plan.targets[0]
    return dataclasses.replace(plan, targets=(dataclasses.replace(target, fallback=change(target.fallback)),))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (with_fallback(lambda programs: programs[:1]), r"fallback has \['step_r1'\], expected .*\['forward_r1', .*"),
        (with_fallback(lambda programs: programs * 2), "fallback names 'step_r1' twice"),
        (with_fallback(lambda _: make_plan().targets[0].programs[:1], make_plan()), r"expected .*, \[\];"),
        (with_fallback(lambda _: tuple(p for p in in_one_kernel(make_plan()).targets[0].programs if p.name in STEPS)),
         "fallback.step_r1 has as many resident kernels as what it stands in for"),
        (with_target(sms=0), "sms is 0, expected 1 to 1024"),
    ],
)  # fmt: skip
def test_a_fallback_is_for_the_resident_programs(plan: Plan, message: str) -> None:
    check_plan(in_one_kernel(make_plan()))
    with pytest.raises(PlanError, match=message):
        check_plan(Plan.from_json(plan.to_json()))


def test_kv_outputs_are_parts_of_a_block() -> None:
    check_plan(with_output(Output("kv.0", "kv", 16, "u8", (48,))))
    with pytest.raises(PlanError, match="of kv, which has 64"):
        check_plan(with_output(Output("kv.0", "kv", 16, "u8", (49,))))
    with pytest.raises(PlanError, match=r"group is 1, expected 0 to 0"):
        check_plan(with_output(Output("kv.0", "kv", 16, "u8", (48,), group=1)))


def test_names_of_what_exists_in_the_errors() -> None:
    plan = make_plan()
    with pytest.raises(PlanError, match="no code for sm_90a; it carries fake"):
        plan.target("sm_90a")
    with pytest.raises(KeyError, match="step_r1, step_draw_r1"):
        plan.target("fake").program("nothing")
