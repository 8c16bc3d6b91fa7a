"""Where pairs of a row and one of its experts lie while products go expert by expert (stage/expert_places.h)."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.ops import Route

_TILE_BYTES = 16
_THREADS = 1024


@dataclass(frozen=True, slots=True)
class Places:
    """The pairs of `rows` rows by one route to `experts` experts, in tiles of `tile` pairs at most."""

    route: Route
    rows: int
    tile: int

    @property
    def experts(self) -> int:
        """That there are."""
        return self.route.experts

    @property
    def pairs(self) -> int:
        """At most."""
        return self.rows * self.route.used

    @property
    def count(self) -> int:
        """Places at most: an expert's begin at a multiple of eight."""
        return round_up(self.pairs + 7 * min(self.experts, self.pairs), 8)

    @property
    def tiles(self) -> int:
        """At most."""
        return min(self.experts, self.pairs) + self.pairs // self.tile

    @property
    def likely_experts(self) -> float:
        """Those of any pair, were every expert as likely as the others."""
        return self.experts * (1 - (1 - self.route.used / self.experts) ** self.rows)

    @property
    def likely_tiles(self) -> float:
        """Likewise: half of an expert's last tile is empty."""
        return max(self.likely_experts, self.pairs / self.tile + self.likely_experts / 2)

    def args(self, low: Lowering) -> dict[str, Param]:
        """The tiles and the pairs, as products take them."""
        name, nbytes = self.route.out.name, (1 + self.tiles) * _TILE_BYTES
        return {
            "tiles": Param("const imp::ExpertTile*", low.buffer(f"{name}.tiles", nbytes)),
            "pairs": Param("const std::int32_t*", low.buffer(f"{name}.pairs", self.count * 4)),
        }

    def kernel(self, low: Lowering) -> KernelSpec:
        """Finds them by the route, which lies in memory."""
        used = self.route.used
        tiles, pairs = (param.binding for param in self.args(low).values())
        config = Config(
            "PlacesConfig",
            (
                ("rows", self.rows),
                ("experts", self.experts),
                ("used", used),
                ("places", self.count),
                ("tile_pairs", self.tile),
            ),
        )
        return KernelSpec(
            name=self.route.out.name + ".places",
            entry="places",
            headers=("stage/expert_places",),
            stage=Cpp("ExpertPlaces", (config,)),
            args={
                "route": low.value("const float*", self.route.out),
                "tiles": Param("imp::ExpertTile*", tiles),
                "pairs": Param("std::int32_t*", pairs),
                "step": low.step(),
            },
            grid=(1, 1, 1),
            threads=_THREADS,
            shared_bytes=_shared_bytes(self.experts),
            overlap=True,
            ops=(),
            other_bytes=self.pairs * 8 + self.count * 4,
        )


def _shared_bytes(experts: int) -> int:
    """Of each warp and expert the pairs of others; of each expert its own, and where its places and tiles begin.

    The emitted source asserts it.
    """
    return round_up(round_up(_THREADS // 32 * experts * 2, 16) + experts * 4 + 2 * (experts + 1) * 4, 16)
