"""Matrix products of several rows whose activations are panels: what all have (stage/gemm_panels.h)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.encode import factors, panel_buffer
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.kernel_spec import Arguments, Config, Cpp, KernelSpec, Param, Scalar
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.stream import bias_mask, biases, name_of_all
from imp_codegen.ops import Add, ExpertLinear, Gated, Linear
from imp_runtime.plan import Binding, Tiles

LINE = 128  # bytes of a token in a panel of halfs, of 64 columns
GROUP_BYTES = 2 * LINE  # of 128
Products = Sequence[Linear | ExpertLinear]
"""Matrices, or stacks of them, that multiply the same vector."""


@dataclass(frozen=True, slots=True)
class PanelTile:
    """How a family cuts a product: `rows` and `tokens` of a tile, `kind` and `mma` as the cost model calls them.

    `stage`: the C++ template, in `header`; `config`: its configuration's type, with `fields` beside those of all;
    `types`: what else it is told beside the matrices. `ends`: groups of 128 columns that take as long as a tile's
    beginning and end. `halves`: sums are those of two halves of the columns. `gated`: what becomes of two results,
    gates and what these multiply, of which a tile has half as many rows each. `places`: of stacks, those of the rows'
    experts. `per_sm`: CTAs that share a multiprocessor. `group_bytes`: of a token's 128 columns in panels.
    """

    stage: str
    header: str
    config: str
    fields: tuple[tuple[str, Scalar], ...]
    kind: str
    mma: Literal["f16", "half", "nvfp4"]
    rows: int
    tokens: int
    threads: int
    shared_bytes: int
    types: tuple[Cpp, ...] = ()
    ends: int = 0
    halves: bool = False
    gated: Gated | None = None
    places: Places | None = None
    per_sm: int = 1
    group_bytes: int = GROUP_BYTES

    def row_tiles(self, linears: Products) -> int:
        """Tiles of rows of all matrices."""
        return row_tiles(self.rows // 2, linears[:1]) if self.gated else row_tiles(self.rows, linears)

    def token_tiles(self, rows: int) -> int:
        """Tiles of so many rows, at most."""
        return self.places.tiles if self.places else -(-rows // self.tokens)


def takes(low: Lowering, weight: Weight) -> bool:
    """Whether halfs can hold the weights."""
    return low.layout(weight).halfs and low.tile(weight).cols % 32 == 0


def panel_gemm(
    low: Lowering,
    tile: PanelTile,
    linears: Products,
    add: Add | None,
    *,
    out: Value | None,
    scale: float,
    cap: float,
) -> KernelSpec:
    """One launch, whose results lie side by side; with `add` added to what lies where the one result goes.

    `out`: the one result of what `scale` and a soft `cap` (0: none) stand for.
    """
    end = add or tile.gated
    outs = (end.out,) if end else (out,) if out else tuple(op.out for op in linears)
    weights = tuple(op.weight for op in linears)
    places = tile.places
    rows, cols, place = places.count if places else low.rows, weights[0].cols, low.places[outs[0]]
    of_rows = tile.row_tiles(linears)
    tiles = of_rows * tile.token_tiles(rows)
    grid = min(tile.per_sm * low.target.sms, tiles * (2 if tile.halves else 1))
    parts = 2 if tile.halves and 2 * tiles <= grid else 1
    groups = -(-cols // 128)  # two panels each
    likely = math.ceil(of_rows * places.likely_tiles) if places else tiles
    steps = -(-likely * parts // grid) * (-(-groups // parts) + tile.ends)
    config = Config(
        tile.config,
        (
            ("cols", cols),
            ("tokens", round_up(rows, 8)),
            ("block_tokens", tile.tokens),
            ("stride", place.stride),
            ("offset", place.column),
            ("accumulate", add is not None),
            ("biased", bias_mask(linears)),
            ("scale", float(add.scale if add else scale)),
            ("cap", cap),
            *tile.fields,
            ("paired", tile.gated is not None),
            ("experts", places.experts if places else 0),
            ("used", places.route.used if places else 0),
            *((("per_sm", tile.per_sm),) if tile.per_sm > 1 else ()),
        ),
    )
    return KernelSpec(
        name=f"{tile.gated.out.name}.products" if tile.gated else name_of_all(linears),
        entry="gemm_fp4" if tile.mma == "nvfp4" else "gemm",
        headers=(tile.header, *low.headers(*weights)),
        stage=Cpp(tile.stage, (config, *tile.types, *map(low.matrix, weights))),
        args={
            "panels": Param("const std::uint8_t*", panel_buffer(low, rows, cols)),
            "factors": Param("const float*", factors(low, rows)),
            "plane": tuple(map(low.plane, weights)),
            "bias": biases(low, linears),
            **(places.args(low) if places else {"tiles": None, "pairs": None}),
            **(_halves(low, tile, grid) if tile.halves else {"halves": None, "arrived": None}),
            "y": Param("float*", Binding(place.buffer)),
            "step": low.step(),
        },
        grid=(grid, 1, 1),
        threads=tile.threads,
        shared_bytes=tile.shared_bytes,
        overlap=True,
        per_sm=tile.per_sm,
        ops=tuple(map(label, (*linears, end) if end else linears)),
        outputs=tuple(output for value in outs for output in low.output(value)),
        weight_bytes=low.weight_bytes(*weights, used=math.ceil(places.likely_experts) if places else 1),
        other_bytes=rows * cols * tile.group_bytes // 128 + low.rows * sum(value.width for value in outs) * 4,
        tiles=Tiles(tile.kind, tile.mma, 2 * tile.rows * tile.tokens * 128, steps),
        flops=2 * (places.pairs if places else rows) * sum(weight.each for weight in weights) * cols,
    )


def _halves(low: Lowering, tile: PanelTile, grid: int) -> Arguments:
    """Where halves of sums wait for the others."""
    return {
        "halves": Param("float4*", low.buffer("gemm.halves", grid * tile.tokens * tile.rows * 4)),
        "arrived": Param("std::uint32_t*", low.buffer("gemm.arrivals", -(-grid // 2) * tile.rows // 16 * 4)),
    }


def row_tiles(rows: int, linears: Products) -> int:
    """Tiles of so many rows of all matrices, of a stack those of one."""
    return sum(-(-op.weight.each // rows) for op in linears)


def ring_bytes(tokens: int, stages: int, warps: int, line: int = LINE) -> int:
    """Panels in flight; barriers that each has landed and that a warp has read it. The emitted source asserts it."""
    return stages * (tokens * line + (1 + warps) * 8)
