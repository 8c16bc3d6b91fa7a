"""How attention of prompts is cut: what a tile's queries see, and rooms for what CTAs leave to one another."""

from __future__ import annotations

import pytest

from attention_cases import Heads
from imp_codegen.kernels.attention.sizes import chunk_tiles, most_spans, span_of
from imp_codegen.targets import find_target

TARGETS = [find_target(name) for name in ("sm_90a", "sm_120a", "sm_120a:rtx-5080", "sim")]
SHAPES = [Heads(32, 8, 128), Heads(16, 8, 128), Heads(28, 4, 128), Heads(8, 1, 256), Heads(4, 2, 64), Heads(32, 4, 512)]


@pytest.mark.parametrize("window", [0, 1, 40, 512, 4096])
@pytest.mark.parametrize("rows", [32, 128, 1024])
def test_no_tile_sees_more_spans_than_there_is_room_for(window: int, rows: int) -> None:
    context = 40_000
    for start in range(0, context - rows, 37):
        first = max(start - window + 1, 0) if window else 0
        assert span_of(start + rows - 1) - span_of(first) < most_spans(context, window, rows)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: f"{case.heads}x{case.kv_heads}x{case.head_dim}")
@pytest.mark.parametrize("rows", [32, 128, 512, 2048])
def test_tiles_fit_a_target_and_cover_all_rows(target, case: Heads, rows: int) -> None:
    tiles = chunk_tiles(case, rows, target)
    assert tiles.shared_bytes <= target.max_shared
    assert tiles.per_sm * (tiles.shared_bytes + 1024) <= target.card.shared
    assert tiles.heads * tiles.tokens <= 16 * tiles.groups
    assert tiles.of(case, rows) * tiles.tokens * tiles.heads >= rows * case.heads
    assert tiles.wgmma <= target.wgmma
    assert tiles.wgmma <= (tiles.groups % 4 == 0)


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: f"{case.heads}x{case.kv_heads}x{case.head_dim}")
@pytest.mark.parametrize("rows", [128, 512, 2048])
def test_rows_whose_tiles_are_split_have_room(case: Heads, rows: int) -> None:
    """By the kernel's own rule: split, unless all rows together make tiles for more than half of the CTAs."""
    target = TARGETS[0]
    tiles = chunk_tiles(case, rows, target)
    shares, ctas = case.heads // tiles.heads, tiles.per_sm * target.sms
    for some in range(1, rows + 1):
        whole = tiles.folds and 2 * -(-some // tiles.tokens) * shares > ctas
        assert whole or some <= tiles.split_rows(case, rows, ctas)
