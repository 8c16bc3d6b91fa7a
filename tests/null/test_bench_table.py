"""`make bench` without a device: what it reads, what it computes, and its predictions against plain arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import bench_table
import pytest
from bench_peer import Peer, read_batched_peer, read_peer, run_batched_peer, run_peer
from bench_predict import predictions, read_measured
from bench_table import CASES, MEASURED, Case, Samples, main, markdown, parse_case, rows_of

from imp_codegen.cards import fast_cards
from imp_runtime.errors import ImpError
from imp_server.commands.bench_speed import Result

PEER = Peer("llama-bench", Path("llama-bench"))


def result(test: str, rate: float, **measured: float) -> Result:
    return Result("m", "Q8_0", 100, 200, "sm_90a", "NVIDIA H200", test, 1, rate, 0.0, rate, **measured)  # type: ignore[arg-type]


def test_figures_are_medians_of_the_repetitions() -> None:
    case = Case(Path("x/tiny.json"), "Q8_0")
    tg = [
        result("tg8", rate, weight_bytes_per_step=70, kv_bytes_per_step=7, bandwidth=rate / 2, busy=busy)
        for rate, busy in ((10.0, 0.9), (40.0, 0.99), (12.0, 0.5))
    ]
    table = {
        (case, "pp16"): Samples([result("pp16", 5.0)]),
        (case, "tg8"): Samples(tg, {"llama-bench": [3.0, 1.0, 8.0]}),
    }
    decode, prompt = rows_of(table)
    assert (decode["model"], decode["quant"], decode["test"], decode["gpu"]) == ("tiny", "Q8_0", "tg8", "NVIDIA H200")
    assert (decode["tokens_per_second"], decode["repetitions"], decode["bytes_per_step"]) == (12.0, 3, 77)
    assert (decode["bandwidth"], decode["busy"], decode["share"]) == (6.0, 0.9, None)
    assert decode["peers"] == {"llama-bench": 3.0}
    assert (prompt["test"], prompt["tokens_per_second"], prompt["deviation"]) == ("pp16", 5.0, 0.0)
    head, _, first, second = markdown([decode, prompt]).splitlines()
    assert [cell.strip() for cell in head.split("|")][5:7] == ["test", "tok/s"]
    assert "| 12.0 " in first
    assert "| 90.00%" in first
    assert first.rstrip(" |").endswith("3.0")
    assert len({len(line) for line in (head, first, second)}) == 1


def test_llama_benchs_json() -> None:
    tests = [
        {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 9000.5, "samples_ts": [9000.5]},
        {"n_prompt": 0, "n_gen": 128, "n_depth": 4096, "avg_ts": 200},
        {"n_prompt": 0, "n_gen": 128, "avg_ts": 300},  # before it had depths
    ]
    assert read_peer(PEER, json.dumps(tests)) == {"pp512": 9000.5, "tg128 @ d4096": 200.0, "tg128": 300.0}


def test_llama_batched_benchs_lines_of_json() -> None:
    line = '{{"n_kv_max": 5120, "n_batch": 2048, "pp": 512, "tg": 128, "pl": {}, "speed_pp": {}, "speed_tg": {}}}'
    text = "main: n_kv_max = 5120\n\n" + "\n".join([line.format(1, 9000.5, 240), "", line.format(8, 8000, 1019.25)])
    assert read_batched_peer(Path("x"), text) == {
        "pp512 b1": 9000.5,
        "tg128 b1 @ d512": 240.0,
        "pp512 b8": 8000.0,
        "tg128 b8 @ d512": 1019.25,
    }
    for wrong in ("", "| PP |", '{"pp": 512}', "{x"):
        with pytest.raises(ImpError, match="x wrote no"):
            read_batched_peer(Path("x"), wrong)


def test_a_peer_without_llama_batched_bench(tmp_path: Path) -> None:
    assert run_batched_peer(Peer("llama-bench", tmp_path / "llama-bench"), tmp_path, 1, 1, [2]) is None


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[{"n_prompt": 1}]', "null"])
def test_a_peer_that_writes_something_else(text: str) -> None:
    with pytest.raises(ImpError, match="no JSON of llama-bench"):
        read_peer(PEER, text)


def test_a_peer_that_fails(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    program.write_text("#!/bin/sh\necho first >&2\necho out of memory >&2\nexit 3\n", "utf-8")
    with pytest.raises(ImpError, match="cannot be run"):
        run_peer(Peer("llama-bench", program), tmp_path, 1, 1, (0,))
    program.chmod(0o755)
    with pytest.raises(ImpError, match="ended with 3: out of memory"):
        run_peer(Peer("llama-bench", program), tmp_path, 1, 1, (0,))


def test_cases() -> None:
    assert parse_case("a/b.json:Q8_0") == Case(Path("a/b.json"), "Q8_0", (0,))
    assert parse_case("b.json:BF16:0,64") == Case(Path("b.json"), "BF16", (0, 64))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.json"], "expected FILE:QUANT"),
        (["a.json:Q8_0:x"], "expected FILE:QUANT"),
        (["a.json:Q8_0:-1"], "expected FILE:QUANT"),
        (["a:b:1:2"], "expected FILE:QUANT"),
        (["--predict", "--gpu", "voodoo"], "--gpu voodoo is unknown; known: h100-pcie, h100-sxm, h200"),
        (["-b", "0"], "-b 0: expected numbers of sequences"),
        (["--peer", "vllm=/bin/sh"], "expected llama-bench=PATH"),
        (["--peer", "llama-bench=/no/such"], "there is no file /no/such"),
        (["/no/such.json:Q8_0", "--target", "sim"], "/no/such.json"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(errors) == 1
    assert words in errors[0]


def test_measured_figures_belong_to_cases_and_cards() -> None:
    rows = json.loads(MEASURED.read_text("utf-8"))
    fields = {"date", "gpu", "model", "quant", "test", "tokens_per_second"}
    assert all(set(row) == fields for row in rows)
    assert {row["gpu"] for row in rows} <= {card.title for card in fast_cards().values()}
    found = {(row["model"], row["quant"]) for row in rows}
    new = {("qwen3-8b", quant) for quant in ("Q6_K", "IQ4_XS", "NVFP4", "FP8")}  # measured with fewer layers so far
    assert found >= {(case.shape.stem, case.quant) for case in CASES} - new
    assert {row["model"] for row in rows} - {"demo"} <= {path.stem for path in bench_table.SHAPES.glob("*.json")}


def test_the_newest_measurement_counts(tmp_path: Path) -> None:
    row = {"gpu": "g", "model": "m", "quant": "q", "test": "t"}
    dated = [("2026-02-01", 2.0), ("2026-03-01", 3.0), ("2026-01-01", 1.0)]
    rows = [row | {"date": date, "tokens_per_second": rate} for date, rate in dated]
    (tmp_path / "m.json").write_text(json.dumps(rows), "utf-8")
    assert read_measured(tmp_path / "m.json") == {("g", "m", "q", "t"): 3.0}


def test_predictions_are_bytes_over_bandwidth() -> None:
    """The 1.7B shape in Q8_0: every matrix once, 34 bytes for 32 weights; at most five kernels a layer and three."""
    hidden, wide, layers, vocab = 2048, 6144, 28, 151936
    heads, kv_heads, dim = 16, 8, 128
    layer = hidden * dim * (2 * heads + 2 * kv_heads) + 3 * hidden * wide
    weights = (layers * layer + vocab * hidden) * 34 / 32
    case = next(case for case in CASES if case.shape.stem == "qwen3-1.7b")
    measured = {("NVIDIA H200", "qwen3-1.7b", "Q8_0", "tg128"): 1000.0}
    both = (fast_cards()["h200"], fast_cards()["rtx-5090"])
    near, far = predictions([(case.shape, "Q8_0", (0, 16000))], (), 128, both, measured)
    for card in both:
        assert card.speed is not None
        seconds = [1 / row[f"{card.name} predicted"] for row in (near, far)]  # type: ignore[operator]
        streaming = weights / (card.speed.bandwidth * 1e9)
        assert streaming < seconds[0] < 1.03 * streaming + 1e-6 * (5 * layers + 3) * card.speed.launch_us
        cache = 16000 * layers * kv_heads * dim * 2 * 2 / (card.speed.bandwidth * 1e9)
        assert seconds[1] - seconds[0] == pytest.approx(cache, rel=0.01)
    assert near["h200 error"] == pytest.approx(near["h200 predicted"] / 1000 - 1)  # type: ignore[operator]
    assert near["test"] == "tg128"
    assert far["test"] == "tg128 @ d16000"
    assert "h200 error" not in far
    assert "rtx-5090 error" not in near


def test_predict_prints_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--predict", "-o", "json", f"{bench_table.SHAPES / 'qwen3-0.6b.json'}:Q8_0:0,512"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["test"] for row in rows] == ["pp512", "pp4096", "tg128", "tg128 @ d512"]
    assert rows[2]["h200 measured"] > 0
