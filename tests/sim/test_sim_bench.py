"""Benchmarks on the simulator: every step is real, only the times mean nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_server.cli import execute
from imp_server.commands.bench_kernels import measure_kernels
from model_checks import quiet

ROOT = Path(__file__).parents[2]
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 300,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
PEER = """#!{python}
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(sys.argv[0] + ".log", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
with open(given["-m"], "rb") as model:
    assert model.read(4) == b"GGUF"
runs = len(open(sys.argv[0] + ".log").readlines())
prompt, generate = int(given["-p"]), int(given["-n"])
tests = []
for depth in map(int, given["-d"].split(",")):
    tests.append(dict(n_prompt=prompt, n_gen=0, n_depth=depth, avg_ts=1000 * runs))
    tests.append(dict(n_prompt=0, n_gen=generate, n_depth=depth, avg_ts=10 * runs + depth))
print(json.dumps(tests))
"""


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shape") / "tiny.json"
    path.write_text(json.dumps(SHAPE), "utf-8")
    return path


@pytest.fixture(scope="module")
def artifact(shape: Path) -> Path:
    path = shape.with_suffix(".impc")
    compile_model(shape, path, ("sim",), CompileOptions(random_weights=True), quiet)
    return path


def test_plot(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What else the machine does takes none of this process's CPU seconds.
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    monkeypatch.setattr(time, "perf_counter_ns", time.process_time_ns)
    picture = tmp_path / "kernels.png"
    flags = ["-p", "0", "-n", "4", "-r", "1", "-d", "20", "-o", "json", "--plot", str(picture)]
    assert execute(["bench", str(artifact), *flags]) == 0
    captured = capsys.readouterr()
    assert "times mean nothing" in captured.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(captured.out)
    (test,) = document["tests"]
    assert 0.2 < test["busy"] <= 1
    assert test["host_cores"] == pytest.approx(1, rel=1e-3)  # of all threads: the simulator's are this process's
    with Engine.load(artifact, target="sim") as engine:
        planned = engine.runner.target.program("step_r1").kernels
    kernels = {kernel["entry"]: kernel for kernel in document["step"]["kernels"]}
    assert set(kernels) == {kernel.entry for kernel in planned}
    assert sum(kernel["launches"] for kernel in kernels.values()) == len(planned)
    assert sum(kernel["share"] for kernel in kernels.values()) == pytest.approx(1)
    assert all(kernel["us"] > 0 for kernel in kernels.values())
    moved = sum(kernel["launches"] * kernel["nbytes"] for kernel in kernels.values())
    # Matrices in Q8_0; of the cache 21 positions, two layers, keys and values of two heads.
    weights = (2 * (256 * 64 * (4 + 2 + 2 + 4) + 3 * 256 * 512) + 300 * 256) * 34 // 32
    assert test["weight_bytes_per_step"] == weights
    assert weights + 21 * 2 * 2 * 2 * 64 * 2 <= moved < 1.1 * weights


def test_tables(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-p", "4", "-n", "2", "-r", "1", "--plot", str(tmp_path / "a.svg")]
    assert execute(["bench", str(artifact), *flags]) == 0
    out = capsys.readouterr().out
    for words in ("pp4", "tg2", "busy", "us each", "RmsNorm, 3 Linear", "alone", "step at 1"):
        assert words in out


def test_measuring_kernels_leaves_no_trace(artifact: Path) -> None:
    """Real kernels add to the residual, append to the cache and advance; an engine in use must not notice."""
    params = SamplingParams(max_tokens=12, ignore_eos=True, temperature=1.0, repetition_penalty=1.3, seed=5)
    with Engine.load(artifact, target="sim") as engine:
        prompt = list(range(20, 60))
        expected = list(engine.generate(prompt, params))
        measure_kernels(engine, 40)
        assert list(engine.generate(prompt, params)) == expected


BATCHED = """#!{python}
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert int(given["-c"]) == 2 * (16 + 4)
for count in map(int, given["-npl"].split(",")):
    sizes = dict(pp=int(given["-npp"]), tg=int(given["-ntg"]), pl=count)
    print(json.dumps(dict(**sizes, speed_pp=1000.0 * count, speed_tg=10.0 * count)))
"""


def bench_table(*arguments: str) -> Sequence[str]:
    return [sys.executable, str(ROOT / "tools" / "bench_table.py"), "--target", "sim", *arguments]


def test_table_with_a_peer(shape: Path, tmp_path: Path) -> None:
    peer = tmp_path / "llama-bench"
    peer.write_text(PEER.format(python=sys.executable), "utf-8")
    peer.chmod(0o755)
    batched = tmp_path / "llama-batched-bench"
    batched.write_text(BATCHED.format(python=sys.executable), "utf-8")
    batched.chmod(0o755)
    flags = [
        "-p",
        "16",
        "-n",
        "4",
        "-r",
        "3",
        "-b",
        "1,2",
        "-o",
        "json",
        "--peer",
        f"llama-bench={peer}",
        "--keep",
        f"{tmp_path}/k",
    ]
    done = subprocess.run(
        bench_table(f"{shape}:Q4_K_M:0,16", *flags), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["test"]: row for row in json.loads(done.stdout)}
    several = ["tg4 b1 @ d16", "tg4 b2 @ d16"], ["pp16 b1", "pp16 b2"]
    assert list(rows) == ["tg4", "tg4 @ d16", *several[0], "pp16", "pp16 @ d16", *several[1]]
    peers = [row["peers"]["llama-bench"] for row in rows.values()]
    assert peers == [20, 36, 10, 20, 2000, 2000, 1000, 2000]  # llama-bench's of the second of three runs
    assert rows["tg4 b2 @ d16"]["each"] == rows["tg4 b2 @ d16"]["tokens_per_second"] / 2
    # Of two sequences 17 to 20 positions each, beside 1 to 4 of one.
    cache = 2 * 2 * 2 * 64 * 2
    more = rows["tg4 b2 @ d16"]["bytes_per_step"] - rows["tg4"]["bytes_per_step"]
    assert more == round(2 * 18.5 * cache) - round(3.5 * cache)
    assert all(row["tokens_per_second"] > 0 and row["repetitions"] == 3 for row in rows.values())
    assert rows["tg4"]["quant"] == "Q4_K_M"
    assert rows["tg4 @ d16"]["bytes_per_step"] - rows["tg4"]["bytes_per_step"] == 15 * 2 * 2 * 2 * 64 * 2
    calls = (tmp_path / "llama-bench.log").read_text("utf-8").splitlines()
    assert len(calls) == 3
    assert "-p 16 -n 4 -d 0,16 -r 1" in calls[0]
    assert {path.name for path in (tmp_path / "k").iterdir()} == {"tiny-Q4_K_M.impc", "tiny-Q4_K_M.gguf"}
    said = done.stderr
    ours, theirs = "repetition 2 of 3\n", "repetition 2 of 3, llama-bench\n"
    assert said.index("repetition 1 of 3, llama-bench\n") < said.index(ours) < said.index(theirs)


def test_ctrl_c_prints_what_there_is(shape: Path, artifact: Path) -> None:
    process = subprocess.Popen(
        bench_table(f"{shape}:Q8_0", "-p", "8", "-n", "4", "-r", "100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A parent that ignores Ctrl-C, as a shell's background job does, must not make this test hang.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "repetition 3 " in line:
            break
    os.kill(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped" in errors
    assert "| tg4 " in out
    assert "| pp8 " in out
