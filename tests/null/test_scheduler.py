from __future__ import annotations

from imp_runtime.block_manager import BlockManager
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Decode, Prefill, Scheduler
from imp_runtime.sequence import Sequence, Status


def sequence(number: int, prompt: int = 10, limit: int = 1000) -> Sequence:
    return Sequence(number, tuple(range(prompt)), SamplingParams(), 0, limit)


def read_all(*sequences: Sequence) -> None:
    for s in sequences:
        s.generated += [1] * s.unread


def test_admission_is_first_come_first_served() -> None:
    scheduler = Scheduler(slots=8, chunk=100, manager=BlockManager(6))
    big, bigger, small = sequence(0, 30), sequence(1, 60), sequence(2, 1)
    for s in (big, bigger, small):
        scheduler.add(s)
    work = scheduler.next()
    assert isinstance(work, Prefill)
    assert work.sequence is big
    assert len(big.blocks) == 2
    assert list(scheduler.waiting) == [bigger, small], "a small one must not overtake"
    read_all(big)
    scheduler.finish(big, "stop")
    work = scheduler.next()
    assert isinstance(work, Prefill)
    assert work.sequence is bigger


def test_no_more_sequences_than_slots() -> None:
    scheduler = Scheduler(slots=2, chunk=100, manager=BlockManager(100))
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


def test_chunks_and_the_token_after_the_last() -> None:
    scheduler = Scheduler(slots=1, chunk=4, manager=BlockManager(100))
    s = sequence(0, prompt=10, limit=3)
    scheduler.add(s)
    chunks = [scheduler.next() for _ in range(3)]
    assert [(c.start, c.tokens, c.last) for c in chunks if isinstance(c, Prefill)] == [
        (0, (0, 1, 2, 3), False),
        (4, (4, 5, 6, 7), False),
        (8, (8, 9), True),
    ]
    assert scheduler.next() == Decode(s, s.slot, None)
    assert scheduler.next() == Decode(s, s.slot, None)
    assert scheduler.next() is None, "three tokens are on their way, and no more are wanted"
    assert s.unread == 3


def test_decode_rounds_are_fair() -> None:
    scheduler = Scheduler(slots=3, chunk=100, manager=BlockManager(1000))
    every = [sequence(i) for i in range(3)]
    for s in every:
        scheduler.add(s)
    for _ in range(60):
        scheduler.next()
        read_all(*every)
    counts = sorted(len(s.generated) for s in every)
    assert sum(counts) == 60
    assert counts[2] - counts[0] <= 2


def test_a_long_prompt_does_not_stop_the_others_nor_they_it() -> None:
    scheduler = Scheduler(slots=3, chunk=2, manager=BlockManager(1000))
    others = [sequence(0, 1), sequence(1, 1)]
    for s in others:
        scheduler.add(s)
    for _ in range(4):
        scheduler.next()
    scheduler.add(sequence(2, 200))
    kinds = "".join("P" if isinstance(scheduler.next(), Prefill) else "D" for _ in range(60))
    assert "PDDPDDPDDPDD" in kinds
    assert "PP" not in kinds
    assert "DDDDD" not in kinds


def test_two_prompts_share_the_chunks() -> None:
    scheduler = Scheduler(slots=2, chunk=2, manager=BlockManager(1000))
    scheduler.add(sequence(0, 20))
    scheduler.add(sequence(1, 20))
    order = [work.sequence.id for work in (scheduler.next() for _ in range(8)) if isinstance(work, Prefill)]
    assert order == [0, 1, 0, 1, 0, 1, 0, 1]


def test_the_youngest_is_preempted_and_comes_back_first() -> None:
    scheduler = Scheduler(slots=3, chunk=100, manager=BlockManager(5))
    old, young, later = sequence(0, 15), sequence(1, 15), sequence(2, 15)
    scheduler.add(old)
    scheduler.add(young)
    for _ in range(36):
        work = scheduler.next()
        if work is None:
            assert old.unread or young.unread
        read_all(old, young)
    assert young.status is Status.RUNNING
    scheduler.add(later)
    while young.status is Status.RUNNING:
        assert isinstance(scheduler.next(), Decode | None)
        read_all(old, young)
    assert (young.slot, young.blocks, young.unread, young.cached) == (-1, [], 0, 0)
    assert list(scheduler.waiting) == [young, later]
    assert old.status is Status.RUNNING
    generated = len(young.generated)
    scheduler.finish(old, "stop")
    work = scheduler.next()
    assert isinstance(work, Prefill)
    kept = (15 + generated) // 16 * 16
    assert (work.sequence, work.start, work.last) == (young, kept, True), "its full blocks are still there"
    assert work.tokens == (1,) * (15 + generated - kept)
    assert young.prompt_cached == 0, "they were not there when it came"


def test_preemption_waits_for_tokens_on_their_way() -> None:
    scheduler = Scheduler(slots=2, chunk=100, manager=BlockManager(5))
    old, young = sequence(0, 15), sequence(1, 15)
    scheduler.add(old)
    scheduler.add(young)
    while scheduler.next() is not None:
        pass
    assert old.unread
    assert young.unread
    assert young.status is Status.RUNNING
    read_all(old, young)
    assert isinstance(scheduler.next(), Decode)
    assert young.status is Status.WAITING


def test_borrowing_and_giving_back() -> None:
    manager = BlockManager(5)
    scheduler = Scheduler(slots=1, chunk=100, manager=manager)
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
