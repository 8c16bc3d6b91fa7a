"""What the compiler counts of the step kernel's schedule is what the CUDA code does."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from sim_library import INCLUDE, KERNELS, SIM, SimLibrary, aligned, compile_sim

from imp_codegen.kernels.step.schedule import Attending, Count, Order, Phase, seen, splits_of
from imp_codegen.targets import find_target
from schedules import ROOT, schedule_of

GRID, WARPS, SPLITS = 5, 3, 4  # as in tape.cu
PHASES = ((7, 1), (3, 4), (61, 3), (20, 2), (1, 5), (64, 1))


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_sim(KERNELS / "tape.cu", tmp_path_factory.mktemp("tape")))


def _lead(order: Order) -> int:
    """How many tiles after another a warp takes the next one, at most; before all of them comes a barrier."""
    return max((np.diff([-1, *order.taken(warp)]).max(initial=0) for warp in range(order.warps)), default=0)


def test_shares_and_orders(tape: SimLibrary) -> None:
    out = aligned(np.full((GRID, 4096), -1, np.int32))
    assert tape.launch("shares", [out], (GRID, 1, 1)) == ""
    for block in range(GRID):
        expected: list[int] = []
        count = Count(GRID, WARPS, block)
        for units, tiles in PHASES:
            share = count.next(units, tiles)
            expected += [
                share.first,
                share.units,
                share.tile,
                share.warp,
                _lead(Order(WARPS, max(tiles, 2), share.units, True)),
            ]
            for sweeps in (False, True):
                order = Order(WARPS, tiles, share.units, sweeps)
                for unit, k in map(order.place, range(share.units * tiles)):
                    expected += [unit, k, share.tile + order.index(unit, k)]
        assert out[block, : len(expected)].tolist() == expected
        assert (out[block, len(expected) :] == -1).all()


@pytest.mark.parametrize("window", [0, 7, 100])
def test_splits(tape: SimLibrary, window: int) -> None:
    positions = np.arange(0, 16 * 40, 7, dtype=np.int32)
    out = aligned(np.zeros((len(positions), 1 + SPLITS), np.int32))
    assert tape.launch(f"splits_{window}", [out, aligned(positions)], (len(positions), 1, 1)) == ""
    attending = Attending(1, 1, window, 1, SPLITS, WARPS)
    for position, (active, *blocks) in zip(positions.tolist(), out.tolist(), strict=True):
        assert blocks[:active] == splits_of(attending, seen(position, window))


# Numbers of the emitted type, each as an expression of the phase's units U.
TRAITS = """
template <class T> struct Numbers;
template <class Args, imp::StepConfig C, class L, class H>
struct Numbers<imp::Step<Args, C, L, H>> {
  using Kernel = imp::Step<Args, C, L, H>;
  template <class P>
  struct Of {
    static constexpr bool has(int units, int tiles, bool may_sweep, int cols, int early, int before) {
      return P::kConfig.early == early &&
             any<typename P::Encoders>([=]<class E>(E*) { return E::kConfig.cols == cols; }) &&
             any<typename P::Matrices>([=]<class U>(U*) {
               return U::kUnits == units && U::kTiles == tiles && (may_sweep || !Kernel::template Shape<U>::kSweeps) &&
                      P::kConfig.first_turns * P::kEncode.warps * 128 / U::First::Layout::kTile.cols == before;
             });
    }
  };
  template <class Ts, class Is>
  static constexpr bool any(const Is& is) { return Ts::most([&]<class T>(T* one) { return is(one) ? 1 : 0; }) == 1; }
  static constexpr bool attends(int window, int items, int splits, int warps, int pieces) {
    return any<typename Kernel::Attend::Kinds>([=]<class K>(K*) {
      return K::kConfig.window >= window && K::Core::kItems == items && K::kConfig.splits == splits &&
             K::kConfig.warps == warps && K::kPieces == pieces;
    });
  }
  static constexpr bool kRing = C.grid == %d && C.warps == %d && C.slots == %d && C.in_flight == %d && C.lanes == %d;
  template <int I> using Phase = Of<typename L::template At<I>>;
  using Head = Of<H>;
};
static_assert(Numbers<step_0_t>::kRing, "ring");
"""


def _assertion(phase: Phase | Attending, name: str) -> str:
    if isinstance(phase, Attending):
        numbers = f"{phase.window}, {phase.items}, {phase.splits}, {phase.warps}, {phase.pieces}"
        return f'static_assert(Numbers<step_0_t>::attends({numbers}), "attention");\n'
    may_sweep = "true" if phase.may_sweep else "false"
    numbers = f"{phase.units}, {phase.tiles}, {may_sweep}, {phase.cols}, {phase.early}, {phase.before}"
    return f'static_assert(Numbers<step_0_t>::{name}::has({numbers}), "{phase.name}");\n'


@pytest.mark.parametrize(
    ("source", "quant", "target"),
    [
        ("models/shapes/qwen3-8b.json", "Q4_K_M", "sm_90a"),
        ("models/shapes/qwen2.5-7b.json", "Q8_0", "sm_90a"),
        ("models/shapes/qwen3-1.7b.json", "BF16", "sm_90a"),
        ("models/shapes/qwen3-0.6b.json", "Q8_0", "sm_120a"),
        ("models/demo.gguf", "", "sm_120a"),
        ("tests/fixtures/gemma4_e2b/hf", "", "sm_90a"),
    ],
)
def test_the_numbers_are_those_of_the_emitted_type(source: str, quant: str, target: str) -> None:
    compiled, schedule = schedule_of(ROOT / source, quant, find_target(target))
    s = schedule
    text = compiled.emitted[target].source
    text += TRAITS % (s.grid, s.warps, s.slots, s.in_flight, s.lanes)
    for layer in s.kinds():
        text += "".join(_assertion(phase, f"Phase<{i}>") for i, phase in enumerate(layer))
    text += _assertion(s.head, "Head")
    command = [
        "g++",
        "-std=c++20",
        "-fsyntax-only",
        "-Wno-unknown-pragmas",
        f"-I{INCLUDE}",
        f"-I{SIM}",
        "-x",
        "c++",
        "-",
    ]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
