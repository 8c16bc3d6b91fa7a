"""`make bench`: the table of docs/benchmarks.md, measured on the GPU of this machine, or predicted without one.

    python tools/bench_table.py
    python tools/bench_table.py --peer llama-bench=/opt/llama.cpp/build/bin/llama-bench
    python tools/bench_table.py models/shapes/qwen3-0.6b.json:Q8_0:0,4096 -r 5 -o json
    python tools/bench_table.py models/shapes/qwen3-8b.json:Q8_0 -b 1,8,32,64
    python tools/bench_table.py --predict --gpu rtx-5090,h200

Each shape is compiled with random weights. Then imp and every peer take turns, a repetition each, on the same weights;
a figure is the median of its repetitions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench_peer import BATCHED, Peer, parse_peer, run_batched_peer, run_peer
from bench_predict import find_cards, predictions, read_measured
from random_gguf import write_random_gguf

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.device import detect_target
from imp_runtime.engine import Engine
from imp_runtime.errors import ImpError
from imp_server.commands.bench_batch import measure_batches, parse_batches
from imp_server.commands.bench_speed import Result, measure

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ROOT / "models" / "shapes"
MEASURED = ROOT / "docs" / "measured.json"
LONG_PROMPT = 4096  # that is predicted, too
AHEAD = 128  # more tokens than the first of several sequences can be ahead of the last


@dataclass(frozen=True, slots=True)
class Case:
    """A shape (or a GGUF file), the format of its weights, and the tokens before those of a test."""

    shape: Path
    quant: str
    depths: tuple[int, ...] = (0,)

    @property
    def title(self) -> str:
        """What the tables call it."""
        return f"{self.shape.stem} {self.quant}"


CASES = (
    Case(SHAPES / "qwen3-8b.json", "Q8_0", (0, 4096, 16384)),
    *(Case(SHAPES / "qwen3-8b.json", quant) for quant in ("Q4_K_M", "Q6_K", "IQ4_XS", "NVFP4", "FP8")),
    Case(SHAPES / "llama-3.2-1b.json", "BF16"),
    Case(SHAPES / "qwen3-1.7b.json", "Q8_0"),
    Case(SHAPES / "qwen3-0.6b.json", "Q8_0"),
    Case(ROOT / "models" / "demo.gguf", "Q8_0"),
)


@dataclass(slots=True)
class Samples:
    """All repetitions of one test so far: imp's results, and the peers' tokens per second by peer."""

    ours: list[Result] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)


Table = dict[tuple[Case, str], Samples]
Say = Callable[[str], None]


def measure_case(
    case: Case, given: argparse.Namespace, peers: Sequence[Peer], folder: Path, into: Table, say: Say
) -> None:
    """Compile one shape into `folder` and add every repetition to `into` as soon as it is there."""
    most = max(case.depths) + max(given.prompt, given.generate) + 2
    each = given.prompt + given.generate + AHEAD if given.batches else 0
    context = -(-max(most, each) // 256) * 256
    artifact = folder / f"{case.shape.stem}-{case.quant}.impc"
    invented = case.shape.suffix == ".json"
    model = artifact.with_suffix(".gguf") if invented else case.shape
    say(f"{case.title}: compile")
    options = CompileOptions(random_weights=invented, quant=case.quant, context=context)
    compile_model(case.shape, artifact, (given.target,), options, lambda step, done, total: None)
    if peers and invented:
        say(f"{case.title}: write the peers' file")
        try:
            write_random_gguf(case.shape, case.quant, model)
        except ImpError as error:
            say(f"{case.title}: no peers: {error}")
            peers = ()
    say(f"{case.title}: load")
    # No more cache than needed: a peer has to fit beside it.
    tokens = max([context, *(count * each for count in given.batches)])
    with Engine.load(artifact, target=given.target, kv_tokens=tokens) as engine:
        for repetition in range(1, given.repetitions + 1):
            say(f"{case.title}: repetition {repetition} of {given.repetitions}")
            for depth in case.depths:
                for result in measure(engine, given.prompt, given.generate, 1, depth):
                    into.setdefault((case, result.test), Samples()).ours.append(result)
            for result in measure_batches(engine, given.batches, given.prompt, given.generate, 1, 0):
                into.setdefault((case, result.test), Samples()).ours.append(result)
            for peer in peers:
                say(f"{case.title}: repetition {repetition} of {given.repetitions}, {peer.name}")
                rates = dict(run_peer(peer, model, given.prompt, given.generate, case.depths))
                if given.batches:
                    batched = run_batched_peer(peer, model, given.prompt, given.generate, given.batches)
                    if batched is None:
                        say(f"{case.title}: no {BATCHED} beside {peer.program}; several sequences have no peer")
                    rates |= batched or {}
                for (of, test), samples in into.items():
                    if of == case and test in rates:
                        samples.peers.setdefault(peer.name, []).append(rates[test])


def rows_of(table: Table) -> list[dict[str, object]]:
    """A row for each test, decode first; figures are medians."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = []
    for (case, test), samples in sorted(table.items(), key=lambda item: item[0][1].startswith("pp")):
        ours = samples.ours
        rates = [result.mean for result in ours]
        row: dict[str, object] = {
            "date": today,
            "gpu": ours[0].device,
            "model": case.shape.stem,
            "quant": case.quant,
            "test": test,
            "tokens_per_second": statistics.median(rates),
            "deviation": statistics.stdev(rates) if len(rates) > 1 else 0.0,
            "repetitions": len(rates),
        }
        if ours[0].bandwidth is not None:
            weights, cache = ours[0].weight_bytes_per_step, ours[0].kv_bytes_per_step
            row["bytes_per_step"] = (weights or 0) + (cache or 0)
            if ours[0].each is not None:
                row["each"] = row["tokens_per_second"] / ours[0].sequences
            for name in ("bandwidth", "read_bandwidth", "share", "busy", "host_cores"):
                values = [value for result in ours if (value := getattr(result, name)) is not None]
                row[name] = statistics.median(values) if values else None
        row["peers"] = {name: statistics.median(found) for name, found in samples.peers.items()}
        rows.append(row)
    return rows


_NUMBERS = {  # column: format; anything else is text
    "tokens_per_second": ("tok/s", "{:,.1f}"),
    "deviation": ("±", "{:.1f}"),
    "repetitions": ("runs", "{}"),
    "each": ("each", "{:,.1f}"),
    "bytes_per_step": ("bytes a step", "{:,}"),
    "bandwidth": ("GB/s", "{:.0f}"),
    "read_bandwidth": ("plain read", "{:.0f}"),
    "share": ("of read", "{:.1%}"),
    "busy": ("busy", "{:.2%}"),
    "host_cores": ("host cores", "{:.2f}"),
}


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """Rows as a table; peers and predictions become columns."""
    flat = []
    for row in rows:
        peers = row.get("peers", {})
        assert isinstance(peers, dict)
        flat.append({name: value for name, value in row.items() if name != "peers"} | peers)
    names = list(dict.fromkeys(name for row in flat for name in row))

    def shown(name: str, value: object) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        form = "{:+.1%}" if name.endswith(" error") else "{:,.1f}"
        return _NUMBERS.get(name, (name, form))[1].format(value)

    heads = [_NUMBERS.get(name, (name, ""))[0] for name in names]
    cells = [[shown(name, row.get(name)) for name in names] for row in flat]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [heads, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def parse_case(text: str) -> Case:
    """`FILE:QUANT` or `FILE:QUANT:DEPTH,DEPTH`."""
    shape, quant, *rest = text.split(":")[:3] if text.count(":") in (1, 2) else ("", "")
    try:
        depths = tuple(int(depth) for depth in rest[0].split(",")) if rest else (0,)
    except ValueError:
        depths = (-1,)
    if not shape or not quant or min(depths) < 0:
        raise ImpError(f"{text}: expected FILE:QUANT or FILE:QUANT:DEPTH,DEPTH")
    return Case(Path(shape), quant, depths)


def run(given: argparse.Namespace) -> int:
    """Measure or predict, print, and give the exit code."""
    cases = [parse_case(text) for text in given.cases] or list(CASES)
    if given.predict:
        triples = [(case.shape, case.quant, case.depths) for case in cases]
        prompts = sorted({given.prompt, LONG_PROMPT})
        cards, measured = find_cards(given.gpu), read_measured(MEASURED)
        print("\n".join(f"[{card.name}: predicted for {card.basis}]" for card in cards), file=sys.stderr)
        write([*predictions(triples, prompts, given.generate, cards, measured)], given.output)
        return 0
    given.batches = [] if given.batch is None else parse_batches(given.batch)
    peers = [parse_peer(text) for text in given.peer]
    given.target = given.target or detect_target()
    began = time.monotonic()
    table: Table = {}

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", file=sys.stderr, flush=True)

    code = 0
    try:
        for case in cases:
            with tempfile.TemporaryDirectory(prefix="imp-bench-") as scratch:
                folder = given.keep or Path(scratch)
                folder.mkdir(parents=True, exist_ok=True)
                measure_case(case, given, peers, folder, table, say)
        say("done")
    except KeyboardInterrupt:
        say("stopped; this is what there is")
        code = 130
    except (ImpError, OSError) as error:
        print(f"bench_table: error: {error}", file=sys.stderr)
        code = 2
    write(rows_of(table), given.output)
    return code


def write(rows: Sequence[dict[str, object]], form: str) -> None:
    """Print the rows."""
    print(json.dumps(rows, indent=1) if form == "json" else markdown(rows))


def main(arguments: Sequence[str]) -> int:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="bench_table.py", description=lines[0])
    add = parser.add_argument
    add("cases", nargs="*", metavar="FILE:QUANT[:DEPTHS]", help="default: all of docs/benchmarks.md")
    add("--peer", action="append", default=[], metavar="llama-bench=PATH", help="measure this program in turn with imp")
    add("--keep", type=Path, metavar="DIR", help="leave artifacts and GGUF files here")
    add("-p", "--prompt", type=int, default=512, metavar="N")
    add("-n", "--generate", type=int, default=128, metavar="N")
    add("-b", "--batch", metavar="N,N", help="so many sequences at once, too")
    add("-r", "--repetitions", type=int, default=3, metavar="N")
    add("-o", "--output", choices=("md", "json"), default="md")
    add("--target", metavar="TARGET", help="default: this machine's")
    add("--predict", action="store_true", help="the cost model's figures; needs no GPU")
    add("--gpu", default="rtx-5090,h200", metavar="GPU,GPU", help="cards to predict for")
    given = parser.parse_args(arguments)
    if given.prompt < 1 or given.generate < 1 or given.repetitions < 1:
        parser.error("-p, -n and -r take numbers from 1 on")
    try:
        return run(given)
    except (ImpError, OSError) as error:
        print(f"bench_table: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
