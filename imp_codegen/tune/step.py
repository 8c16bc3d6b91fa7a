"""The step kernel as tables know it, what may be chosen of it, and the formula that chooses where no table does."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.targets import Target

LEAST_TILES = 4  # 16 KB, what the card with the least bandwidth wants in flight


@dataclass(frozen=True, slots=True)
class StepChoice:
    """Tiles that a CTA has in flight, and lanes of its fetching warp that look for room for the next ones."""

    in_flight: int
    lanes: int

    def __str__(self) -> str:
        return f"{self.in_flight} x {self.lanes}"


@dataclass(frozen=True, slots=True)
class Step:
    """A model's step kernel. Its warps are no choice: how attention adds up, and so the result, depends on them.

    `name`: the key of tables, everything that decides what is best, but the target. `tile_bytes`: of the largest tile
    of the layers. `ring_tiles`: that the ring may have in flight, beside the one that each warp is at.
    """

    name: str
    tile_bytes: int
    ring_tiles: int

    @property
    def possible(self) -> bool:
        """Whether the ring is long enough to stream."""
        return self.ring_tiles >= LEAST_TILES

    def takes(self, choice: StepChoice) -> bool:
        """Whether each lane looks at another tile, and the ring has room for all of them."""
        return choice.lanes <= choice.in_flight <= self.ring_tiles

    def formula(self, target: Target) -> StepChoice:
        """The card's bytes in flight; more lanes where tiles are short."""
        by = target.card.formulas
        lanes = min(2 * by.lanes if self.tile_bytes < by.short_tile else by.lanes, self.ring_tiles)
        return StepChoice(min(max(by.in_flight // self.tile_bytes, lanes), self.ring_tiles), lanes)

    def candidates(self, target: Target) -> tuple[StepChoice, ...]:
        """What is worth measuring beside the formula's choice: half and twice as much in flight, the other lanes."""
        usual, lanes = self.formula(target), target.card.formulas.lanes
        counts = (usual.in_flight // 2, usual.in_flight, min(2 * usual.in_flight, self.ring_tiles))
        found = dict.fromkeys(StepChoice(count, looking) for count in counts for looking in (lanes, 2 * lanes))
        return tuple(choice for choice in found if choice != usual and self.takes(choice))
