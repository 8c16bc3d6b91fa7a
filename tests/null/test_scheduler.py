from __future__ import annotations

import pytest
from fake_device import Grammar

from imp_runtime.block_manager import BlockManager
from imp_runtime.plan import LAST_TOKEN, NO_LEDGER, TOP_LOGPROBS
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch, Run, Scheduler
from imp_runtime.sequence import Sequence, Status


def sequence(number: int, prompt: int = 10, limit: int = 1000) -> Sequence:
    return Sequence(number, tuple(range(prompt)), SamplingParams(), 0, limit)


def prompts(batch: Batch | None) -> tuple[Run, ...]:
    """The rows of a batch of prompts."""
    assert batch is not None
    assert batch.rows > 1
    return batch.sequences


def read_all(*sequences: Sequence) -> None:
    for s in sequences:
        s.generated += [1] * s.unread


def test_admission_is_first_come_first_served() -> None:
    scheduler = Scheduler(slots=8, ledgers=1, rows=100, manager=BlockManager(6))
    big, bigger, small = sequence(0, 30), sequence(1, 60), sequence(2, 1)
    for s in (big, bigger, small):
        scheduler.add(s)
    (run,) = prompts(scheduler.next())
    assert run.sequence is big
    assert [len(blocks) for blocks in big.blocks] == [2]
    assert list(scheduler.waiting) == [bigger, small], "a small one must not overtake"
    read_all(big)
    scheduler.finish(big, "stop")
    (run,) = prompts(scheduler.next())
    assert run.sequence is bigger


def test_no_more_sequences_than_slots() -> None:
    scheduler = Scheduler(slots=2, ledgers=1, rows=100, manager=BlockManager(100))
    every = [sequence(i) for i in range(3)]
    for s in every:
        scheduler.add(s)
    for _ in range(2):
        scheduler.next()
    assert [s.status for s in every] == [Status.RUNNING, Status.RUNNING, Status.WAITING]
    assert {every[0].slot, every[1].slot} == {0, 1}
    scheduler.finish(every[0], "abort")
    scheduler.next()
    assert (every[2].status, every[2].slot) == (Status.RUNNING, 0)


PENALISED = SamplingParams(presence_penalty=1)
WANT_LEDGERS = {
    "penalty": PENALISED,
    "window": SamplingParams(repetition_penalty=1.1, repeat_last_n=8),
    "dry": SamplingParams(dry_multiplier=0.8),
    "bias": SamplingParams(logit_bias=((3, 1.0),)),
    "min_tokens": SamplingParams(min_tokens=1),
    "all logits": SamplingParams(top_logprobs=TOP_LOGPROBS + 1),
}
WANT_NONE = {
    "greedy": SamplingParams(),
    "drawn": SamplingParams(temperature=1, top_k=40, top_p=0.9, min_p=0.1),
    "sieved": SamplingParams(temperature=1, typical_p=0.9, xtc_probability=0.5),
    "mirostat": SamplingParams(temperature=1, mirostat=2),
    "logprobs": SamplingParams(top_logprobs=TOP_LOGPROBS),
    "off": SamplingParams(repetition_penalty=2, repeat_last_n=0, dry_multiplier=1, dry_penalty_last_n=0),
}


@pytest.mark.parametrize("kind", [*WANT_LEDGERS, *WANT_NONE])
def test_who_wants_a_ledger(kind: str) -> None:
    s = Sequence(0, (1,), (WANT_LEDGERS | WANT_NONE)[kind], 0, 9)
    assert s.wants_ledger == (kind in WANT_LEDGERS)
    s.constraint = Grammar()
    assert s.wants_ledger


def test_who_waits_for_a_ledger_lets_others_pass_and_is_next() -> None:
    scheduler = Scheduler(slots=8, ledgers=2, rows=100, manager=BlockManager(100))
    every = [Sequence(i, (1,), PENALISED if i < 5 else SamplingParams(), 0, 1000) for i in range(8)]
    for s in every:
        scheduler.add(s)
    assert [s.ledger for s in every[:2]] == [0, 1]
    assert scheduler.running == [*every[:2], *every[5:]]
    assert list(scheduler.waiting) == every[2:5]
    assert {s.ledger for s in every[2:]} == {NO_LEDGER}
    scheduler.finish(every[5], "stop")
    scheduler.next()
    assert list(scheduler.waiting) == every[2:5], "a slot alone is of no use"
    scheduler.finish(every[1], "abort")
    scheduler.next()
    assert (every[2].ledger, every[2].status, list(scheduler.waiting)) == (1, Status.RUNNING, every[3:5])
    scheduler._preempt(every[0])
    assert (every[0].ledger, list(scheduler.waiting)) == (NO_LEDGER, [every[0], *every[3:5]])
    scheduler.next()
    assert (every[0].ledger, list(scheduler.waiting)) == (0, every[3:5])
    scheduler.finish(every[3], "abort")
    for s in every[:3]:
        scheduler.finish(s, "stop")
    scheduler.next()
    assert (every[4].status, list(scheduler.waiting)) == (Status.RUNNING, [])


def test_who_waits_for_a_ledger_gets_one_whatever_else_comes() -> None:
    """Plain sequences come all the time, and fill every slot."""
    scheduler = Scheduler(slots=3, ledgers=1, rows=4, manager=BlockManager(100))
    first, second = (Sequence(i, (1, 2), PENALISED, 0, 8) for i in range(2))
    scheduler.add(first)
    scheduler.add(second)
    order: list[int] = []
    for number in range(2, 60):
        scheduler.add(sequence(number, limit=5))
        for _ in range(3):
            scheduler.next()
            for s in list(scheduler.running):
                s.generated += [1] * s.unread
                if len(s.generated) >= s.limit:
                    scheduler.finish(s, "length")
                    order.append(s.id)
    assert first.finish == second.finish == "length"
    assert order.index(1) < 12, "few more than ran when it came, and what ended before the first"


def test_chunks_and_the_token_after_the_last() -> None:
    scheduler = Scheduler(slots=1, ledgers=1, rows=4, manager=BlockManager(100))
    s = sequence(0, prompt=10, limit=3)
    scheduler.add(s)
    runs = [run for _ in range(3) for run in prompts(scheduler.next())]
    assert [(run.start, run.tokens, run.samples, run.table) for run in runs] == [
        (0, (0, 1, 2, 3), False, tuple(s.blocks[0])),
        (4, (4, 5, 6, 7), False, ()),
        (8, (8, 9), True, ()),
    ]
    assert scheduler.next() == Batch(1, (Run(s, s.slot, NO_LEDGER, 10, (LAST_TOKEN,), samples=True),))
    assert scheduler.next() == Batch(1, (Run(s, s.slot, NO_LEDGER, 11, (LAST_TOKEN,), samples=True),))
    assert scheduler.next() is None, "three tokens are on their way, and no more are wanted"
    assert s.unread == 3


def test_decode_rounds_are_fair() -> None:
    scheduler = Scheduler(slots=3, ledgers=1, rows=100, manager=BlockManager(1000))
    every = [sequence(i) for i in range(3)]
    for s in every:
        scheduler.add(s)
    for _ in range(60):
        scheduler.next()
        read_all(*every)
    counts = sorted(len(s.generated) for s in every)
    assert sum(counts) == 62, "the three prompts go together"
    assert counts[2] - counts[0] <= 2


def test_a_long_prompt_does_not_stop_the_others_nor_they_it() -> None:
    scheduler = Scheduler(slots=3, ledgers=1, rows=2, manager=BlockManager(1000))
    others = [sequence(0, 1), sequence(1, 1)]
    for s in others:
        scheduler.add(s)
    for _ in range(4):
        scheduler.next()
    scheduler.add(sequence(2, 200))
    batches = [scheduler.next() for _ in range(60)]
    kinds = "".join("P" if batch and batch.rows > 1 else "D" for batch in batches)
    assert "PDDPDDPDDPDD" in kinds
    assert "PP" not in kinds
    assert "DDDDD" not in kinds


def test_two_prompts_share_the_chunks() -> None:
    scheduler = Scheduler(slots=2, ledgers=1, rows=2, manager=BlockManager(1000))
    scheduler.add(sequence(0, 20))
    scheduler.add(sequence(1, 20))
    order = [run.sequence.id for _ in range(8) for run in prompts(scheduler.next())]
    assert order == [0, 1, 0, 1, 0, 1, 0, 1]


def test_short_prompts_go_together() -> None:
    """The last rows of one and the first of the next, in the order in which they came; then who has waited longest."""
    scheduler = Scheduler(slots=5, ledgers=1, rows=8, manager=BlockManager(1000))
    for number, length in enumerate((3, 2, 9, 1)):
        scheduler.add(sequence(number, length))
    rows = [(run.sequence.id, run.start, len(run.tokens), run.samples) for run in prompts(scheduler.next())]
    assert rows == [(0, 0, 3, True), (1, 0, 2, True), (2, 0, 3, False)]
    rows = [(run.sequence.id, run.start, len(run.tokens), run.samples) for run in prompts(scheduler.next())]
    assert rows == [(3, 0, 1, True), (2, 3, 6, True)]


def test_the_youngest_is_preempted_and_comes_back_first() -> None:
    scheduler = Scheduler(slots=3, ledgers=1, rows=100, manager=BlockManager(5))
    old, young, later = sequence(0, 15), sequence(1, 15), sequence(2, 15)
    scheduler.add(old)
    scheduler.add(young)
    for _ in range(35):
        work = scheduler.next()
        if work is None:
            assert old.unread or young.unread
        read_all(old, young)
    assert young.status is Status.RUNNING
    scheduler.add(later)
    while young.status is Status.RUNNING:
        batch = scheduler.next()
        assert batch is None or batch.rows == 1
        read_all(old, young)
    assert (young.slot, young.blocks, young.unread, young.cached) == (-1, [], 0, 0)
    assert list(scheduler.waiting) == [young, later]
    assert old.status is Status.RUNNING
    generated = len(young.generated)
    scheduler.finish(old, "stop")
    (run,) = prompts(scheduler.next())
    kept = (15 + generated) // 16 * 16
    assert (run.sequence, run.start, run.samples) == (young, kept, True), "its full blocks are still there"
    assert run.tokens == (1,) * (15 + generated - kept)
    assert young.prompt_cached == 0, "they were not there when it came"


def test_preemption_waits_for_tokens_on_their_way() -> None:
    scheduler = Scheduler(slots=2, ledgers=1, rows=100, manager=BlockManager(5))
    old, young = sequence(0, 15), sequence(1, 15)
    scheduler.add(old)
    scheduler.add(young)
    while scheduler.next() is not None:
        pass
    assert old.unread
    assert young.unread
    assert young.status is Status.RUNNING
    read_all(old, young)
    batch = scheduler.next()
    assert batch is not None
    assert batch.rows == 1
    assert young.status is Status.WAITING


def test_borrowing_and_giving_back() -> None:
    manager = BlockManager(5)
    scheduler = Scheduler(slots=1, ledgers=1, rows=100, manager=manager)
    assert scheduler.borrow(65) is None
    borrowed = scheduler.borrow(64)
    assert borrowed is not None
    assert scheduler.borrow(1) is None
    scheduler.give_back(*borrowed)
    assert manager.free_blocks == 4
    assert scheduler.borrow(1) is not None


def test_known_tokens_and_counts() -> None:
    s = sequence(0, 3)
    s.generated += [7, 7, 1]
    assert s.tokens(0, 6) == (0, 1, 2, 7, 7, 1)
    assert s.tokens(2, 5) == (2, 7, 7)
    assert s.tokens(4, 6) == (7, 1)
    assert s.seen(9).tolist() == [[0, 1], [1, 2], [0, 1], *[[0, 0]] * 4, [2, 2], [0, 0]]
    s.params = SamplingParams(repeat_last_n=2)
    assert s.seen(9).tolist() == [[0, 0], [1, 1], *[[0, 0]] * 5, [2, 1], [0, 0]]
    s.params = SamplingParams(repeat_last_n=0)
    assert s.seen(9)[:, 1].tolist() == [0] * 9
