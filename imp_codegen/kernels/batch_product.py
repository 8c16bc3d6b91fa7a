"""What the products of a row each of a few sequences share: arguments, results, and the order in which they add up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.encode import factors, panel_buffer
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.stream import bias_mask, biases, name_of_all
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Binding, Tiles

GROUP = 128  # columns that a warp multiplies at a time
ROWS = 16  # of a matrix, that it multiplies with them


@dataclass(frozen=True, slots=True)
class BatchStage:
    """A kernel of them, but for what it multiplies.

    `config`: its own, beside the product's. `stretches`: of the columns, whose sums lie in memory where there are
    several; `places`: how many 16 rows have such sums.
    """

    name: str
    header: str
    config: Config
    stretches: int
    places: int
    grid: int
    warps: int
    shared_bytes: int
    tiles: Tiles

    def product(
        self,
        low: Lowering,
        linears: tuple[Linear, ...],
        add: Add | None,
        *,
        out: Value | None,
        scale: float,
        cap: float,
    ) -> KernelSpec:
        """One launch, whose results lie side by side; with `add` added to what lies where the one result goes.

        `out`: the one result of what `scale` and a soft `cap` (0: none) stand for.
        """
        outs = (add.out,) if add else (out,) if out else tuple(op.out for op in linears)
        weights = tuple(op.weight for op in linears)
        rows, cols, place = low.rows, weights[0].cols, low.places[outs[0]]
        product = Config(
            "BatchProduct",
            (
                ("cols", cols),
                ("rows", rows),
                ("stretches", self.stretches),
                ("stride", place.stride),
                ("offset", place.column),
                ("accumulate", add is not None),
                ("biased", bias_mask(linears)),
                ("scale", float(add.scale if add else scale)),
                ("cap", cap),
            ),
        )
        total = sum(weight.rows for weight in weights)
        partial = self.places * self.stretches * rows * ROWS * 4 if self.stretches > 1 else 0
        return KernelSpec(
            name=name_of_all(linears),
            entry="gemm",
            headers=(self.header, *low.headers(*weights)),
            stage=Cpp(self.name, (product, self.config, *map(low.matrix, weights))),
            args={
                "activations": Param("const std::uint8_t*", panel_buffer(low, rows, cols)),
                "factors": Param("const float*", factors(low, rows)),
                "plane": tuple(map(low.plane, weights)),
                "bias": biases(low, linears),
                "y": Param("float*", Binding(place.buffer)),
                "step": low.step(),
                "partial": Param("float4*", low.buffer("batch.partials", partial)) if partial else None,
                "arrived": Param("std::uint32_t*", low.buffer("batch.arrivals", self.places * 4)) if partial else None,
            },
            grid=(self.grid, 1, 1),
            threads=self.warps * 32,
            shared_bytes=self.shared_bytes,
            overlap=True,
            ops=tuple(map(label, (*linears, add) if add else linears)),
            outputs=tuple(output for value in outs for output in low.output(value)),
            weight_bytes=low.weight_bytes(*weights),
            other_bytes=rows * (cols * 2 + total * 4) + 2 * partial,
            tiles=self.tiles,
            flops=2 * rows * total * cols,
        )


@dataclass(frozen=True, slots=True)
class Order:
    """How results of matrices' columns add up, whatever the number of rows: chains, then stretches, in ascending order.

    `held`: stretches of whole tiles, of which a CTA of few rows has one. `warps`: chains of such a stretch, of `chain`
    groups each. `parts`: stretches that each of these is cut into for more rows, whose sums are added up first; with so
    many, CTAs of `tile_warps` warps have equal shares.
    """

    held: int
    warps: int
    chain: int
    parts: int
    tile_warps: int


def order(low: Lowering, weights: tuple[Weight, ...]) -> Order | None:
    """Of matrices that a vector is multiplied with; None where tiles do not fit it. It knows of no card's size."""
    cols = weights[0].cols
    shapes = [
        (held, groups // chain, chain)
        for held in range(1, _MOST_STRETCHES + 1)
        if cols % (held * GROUP) == 0
        and all(cols // held % low.tile(weight).cols == 0 for weight in weights)
        and max(unit_bytes(low, weight, held) for weight in weights) <= _UNIT
        for groups in (cols // held // GROUP,)
        for chain in _CHAINS
        if groups % max(chain, 2) == 0 and _LEAST_WARPS <= groups // chain <= _MOST_WARPS
    ]
    if not shapes:
        return None
    held, warps, chain = max(shapes, key=lambda shape: (shape[1], -shape[0]))

    def cost(cut: tuple[int, int]) -> float:
        parts, tile_warps = cut
        items = row_tiles(low, weights, tile_warps * ROWS) * held * parts
        groups = warps * chain // parts
        return -(-items // _CTAS) * (groups * _TILES[tile_warps] + _STRETCH * (held * parts > 1))

    cuts = [(parts, each) for parts in range(1, warps + 1) for each in _TILES if _whole(warps, chain, parts)]
    return Order(held, warps, chain, *min(cuts, key=cost))


def _whole(warps: int, chain: int, parts: int) -> bool:
    """Whether a stretch of so many chains makes as many parts, of an even number of groups each."""
    return warps % parts == 0 and warps // parts * chain % 2 == 0


def row_tiles(low: Lowering, weights: tuple[Weight, ...], rows: int) -> int:
    """Tiles of so many rows that matrices have: neighbours of one layout share them (stage/gemm_batch_wgmma.h)."""
    runs = (sum(round_up(w.rows, ROWS) for w in run) for _, run in groupby(weights, lambda w: low.matrix(w).args[0]))
    return sum(-(-run // rows) for run in runs)


def unit_bytes(low: Lowering, weight: Weight, stretches: int) -> int:
    """Of 16 rows of a stretch of a matrix's columns, as it is packed."""
    tile = low.tile(weight)
    return ROWS // tile.rows * (weight.cols // stretches // tile.cols) * low.tile_bytes(weight)


_CHAINS = (1, 2, 4)  # groups: a warp can hold the activations of no more
_MOST_STRETCHES = 16
_MOST_WARPS = 8
_LEAST_WARPS = 4
_UNIT = 72 << 10  # bytes: three fit shared memory
_CTAS = 132  # for which parts are cut, on every card
_TILES = {12: 1.0, 8: 0.8}  # warps of a CTA of many rows, and the time that a group takes it
_STRETCH = 3.0  # groups' time, that it takes to add up sums that lie in memory
