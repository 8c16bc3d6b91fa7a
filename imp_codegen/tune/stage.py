"""A streamed stage, the configurations that it can run in, and the formula that chooses one where no table does."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.targets import Target

_CANDIDATE_SLOTS = (2, 3, 4, 6)
_EPILOGUE_BYTES = 512  # of shared memory that are left to what becomes of the rows


def round16(nbytes: int) -> int:
    """The next multiple of 16."""
    return (nbytes + 15) & ~15


@dataclass(frozen=True, slots=True)
class Choice:
    """Warps of a CTA, and tiles that each has in flight."""

    warps: int
    slots: int

    def __str__(self) -> str:
        return f"{self.warps} x {self.slots}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A kernel that multiplies one vector with matrices: what the best configuration depends on.

    `kind` is the entry's name (qkv, project, gate_up, head), `matrices` are written "12288x4096 Q8_0:1x4096": rows,
    columns, layout and tile. A warp takes whole units, `units` in all, of at most `unit_tiles` tiles, and a tile has at
    most `slot_bytes` bytes. `plane_bytes`: all planes. `vector_bytes`: the encoded vector in shared memory.
    """

    kind: str
    matrices: tuple[str, ...]
    units: int
    unit_tiles: int
    slot_bytes: int
    plane_bytes: int
    vector_bytes: int

    @property
    def name(self) -> str:
        """The key of tables: everything that decides which configuration is best, but the target."""
        return f"{self.kind} {', '.join(self.matrices)}"

    def ring_bytes(self, choice: Choice) -> int:
        """Weights in flight in one CTA."""
        return choice.warps * choice.slots * self.slot_bytes

    def shared_bytes(self, choice: Choice) -> int:
        """Shared memory of a CTA: rings, their barriers, the encoded vector."""
        return self.ring_bytes(choice) + round16(choice.warps * choice.slots * 8) + self.vector_bytes

    def formula(self, target: Target) -> Choice:
        """The card's warps, or those that a tile each leaves room for, with as many in flight as fit, up to a few."""
        by, room = target.card.formulas, target.max_shared - _EPILOGUE_BYTES
        found = (n for n in range(by.gemv_warps, 1, -1) if self.shared_bytes(Choice(n, 1)) <= room)
        warps = next(found, 1)
        fit = (target.gemv_shared - self.vector_bytes) // (warps * (self.slot_bytes + 8))
        return Choice(warps, min(max(fit, 1), by.stream_slots))

    def candidates(self, target: Target) -> tuple[Choice, ...]:
        """What is worth measuring beside the formula's choice: half to one and a half times the card's warps."""
        usual = target.card.formulas.gemv_warps
        found = [
            Choice(warps, slots)
            for warps in range(max(usual // 2, 1), usual * 3 // 2 + 1, 2)
            for slots in self._useful_slots(target, warps)
            if self.shared_bytes(Choice(warps, slots)) <= target.gemv_shared
        ]
        return tuple(choice for choice in found if choice != self.formula(target))

    def _useful_slots(self, target: Target, warps: int) -> tuple[int, ...]:
        """A warp has no use for more slots than it ever gets tiles."""
        tiles = -(-self.units // (target.sms * warps)) * self.unit_tiles
        return tuple(slots for slots in _CANDIDATE_SLOTS if slots <= tiles) or (1,)
