"""The step kernel in the simulator's check build: nothing to complain about, but of seeded mistakes each is found."""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from test_step import sim, tokens

from imp_codegen import device_code
from imp_runtime.device import DeviceError
from imp_runtime.sim import SimDevice
from two_forms import BothForms, compile_config

ORDERS = [(0, 1), (1, 1), *((2, seed) for seed in range(1, 4))]
STAGE = Path("include") / "imp" / "stage"
SWITCH = """
extern "C" {
inline int seeded_fault = 0;
}
namespace imp {
__attribute__((no_sanitize("thread"), noinline)) inline int seeded() { return seeded_fault; }
// A CTA that comes late to a phase, by whatever has held it up.
inline void tarry(int place) {
  if (seeded() % 10 != place || block_index() != seeded() / 10 - 1) return;
  Poll late("nothing");
  for (int i = 0; i < 300; i++) late.pause();
}
}  // namespace imp
"""
# A mistake each, by its number: file, correct text, text with the mistake at choice.
FAULTS = {
    1: (
        "step.h",
        "        Cta::sync();\n      };",
        "        if (seeded() != 1) Cta::sync();\n      };",
    ),
    2: (
        "step.h",
        "return ((V == Vector::x ?",
        "return seeded() == 2 && V == Vector::qkv ? 1u : ((V == Vector::x ?",
    ),
    3: ("tape.h", "if (index >= InFlight &&", "if (seeded() != 3 && index >= InFlight &&"),
    4: (
        "step.h",
        "arrive(int phase) {\n      warp_sync();",
        "arrive(int phase) {\n      if (seeded() == 4 && phase == 3 && block_index() == 1) return;\n      warp_sync();",
    ),
    5: (
        "step.h",
        "take(int i, int k) { return ring.take(order.index(at(i), k)); }\n"
        "      __device__ __forceinline__ void release(int i, int k) {",
        "take(int i, int k) {\n        std::uint8_t* tile = ring.take(order.index(at(i), k));\n"
        "        if (seeded() == 5) ring.release(order.index(at(i), k));\n        return tile;\n      }\n"
        "      __device__ __forceinline__ void release(int i, int k) { if (seeded() != 5)",
    ),
}
MAX_SHARED = 6964
LATE = {"Qkv": 0, "Out": 2, "GateUp": 3, "Down": 4}  # places in the list of phases


def _seeded(folder: Path) -> Path:
    """A copy of the templates whose step kernel makes a mistake when it is told to."""
    templates = folder / "templates"
    shutil.copytree(device_code.templates(), templates)
    for name, old, new in FAULTS.values():
        _replace(templates / STAGE / name, old, new)
    begin = "      static_assert(Phase::kEncode.warps == C.warps"
    _replace(templates / STAGE / "step.h", begin, f"      tarry(I);\n{begin}")
    _replace(templates / STAGE / "cta.h", "namespace imp {", SWITCH + "namespace imp {")
    return templates


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{path}: {old!r} is there {text.count(old)} times"
    path.write_text(text.replace(old, new), "utf-8")


class Seeded:
    """A model of two layers, more CTAs than units in three phases, and a ring as short as it may be."""

    def __init__(self, folder: Path) -> None:
        templates = _seeded(folder)
        changes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "vocab_size": 2401}
        target = sim(20, 3, max_shared=MAX_SHARED)
        card = replace(target.card, formulas=replace(target.card.formulas, in_flight=0))
        target = replace(target, card=card)
        with patch.object(device_code, "templates", lambda: templates):
            artifact = compile_config(folder, target, changes, check=True)
        self.device = SimDevice(threads=1)
        self.forms = BothForms(artifact, self.device)
        self.module = self.device._loaded()

    def run(self, fault: int, order: int = 0, seed: int = 1, count: int = 3) -> None:
        """Compare both forms; the mistake is made in that which comes second."""
        self.forms.reset()
        self.module.configure(1, order, seed)
        ctypes.c_int.in_dll(self.module.library, "seeded_fault").value = fault
        self.forms.compare(tokens(count))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    seeded = Seeded(tmp_path_factory.mktemp("step"))
    yield seeded
    seeded.device.close()


@pytest.mark.parametrize(("order", "seed"), ORDERS)
def test_nothing_is_found_without_a_fault(checked: Seeded, order: int, seed: int) -> None:
    checked.run(0, order, seed)


@pytest.mark.parametrize("place", LATE.values(), ids=LATE)
@pytest.mark.parametrize("block", [5, 9])  # 5 has no units of gate and up, 9 no units of the output projection
def test_a_cta_may_come_late_to_any_phase(checked: Seeded, place: int, block: int) -> None:
    checked.run(10 * (block + 1) + place, count=2)


@pytest.mark.parametrize(("order", "seed"), ORDERS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (1, "data race on shared memory.*read by.*tile.h.*then write by.*q8_block.h"),
        (2, "Arrays are not equal"),
        (3, "a bulk_load has not filled yet|bulk_wait of parity"),
        (4, "deadlock.*nothing changes for those that poll.*Poll::pause at [^ ]*step.h"),
        (5, "data race on shared memory.*read by.*then write by.*tape.h"),
    ],
    ids=["no Cta::sync", "the same tag", "too many in flight", "no arrival", "released too early"],
)
def test_faults(checked: Seeded, fault: int, message: str, order: int, seed: int) -> None:
    with pytest.raises((DeviceError, AssertionError)) as raised:
        checked.run(fault, order, seed)
    assert re.search(message, str(raised.value), re.DOTALL), raised.value
    checked.run(0, order, seed, count=1)  # the process is as good as new


def test_ctas_that_share_a_kv_head_do_not_race_for_the_new_row(tmp_path: Path) -> None:
    """Groups of 12: two CTAs read the block in which one of them writes."""
    changes = {"num_attention_heads": 12, "num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 2}
    device = SimDevice(threads=1)
    try:
        forms = BothForms(compile_config(tmp_path, sim(3, 2), changes, check=True), device)
        for order, seed in ORDERS[1:3]:
            for count in (1, 16, 17):
                forms.reset()
                device._loaded().configure(1, order, seed)
                forms.compare(tokens(count))
    finally:
        device.close()
