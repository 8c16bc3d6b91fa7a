"""Trains the demo model on the files that `corpus.py` wrote and saves it in Hugging Face's layout.

    python tools/demo_model/train.py [--corpus build/demo_model] [--out build/demo_model/hf] [--minutes 6]

The number of steps is what the device manages in the given minutes (measured over the first steps), so that the cosine
schedule always ends at zero. Needs PyTorch >= 2.9 and safetensors; a GPU for anything but a dry run.
"""

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from model import Config, Model
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

WARMUP = 200
TIMED = (30, 80)  # the steps between which the speed is measured


@dataclass(frozen=True, slots=True)
class Starts:
    """Where training windows may begin: never inside a conversation, since a prompt never does."""

    anywhere: Tensor
    lines: Tensor  # only at lines that are not indented, as prompts do


def window_starts(data: NDArray[np.uint16], tokenizer: Tokenizer, context: int) -> Starts:
    """Both kinds of positions for a token stream whose documents end with <|endoftext|>."""
    end, turn = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_start|>")
    first = np.concatenate(([True], data[:-1] == end))  # of its document
    conversation = (data[first] == turn)[np.cumsum(first) - 1]
    allowed = ~conversation | first
    allowed[len(data) - context - 1 :] = False
    text = [tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size())]
    breaks = np.array([one.endswith("\n") for one in text])
    indents = np.array([not one or one[0].isspace() for one in text]) & (np.arange(len(text)) < end)
    line = first | np.concatenate(([True], breaks[data[:-1]] & ~indents[data[1:]]))
    return Starts(torch.from_numpy(np.flatnonzero(allowed)), torch.from_numpy(np.flatnonzero(allowed & line)))


def windows(
    data: Tensor, starts: Starts, batch: int, context: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random windows of the token stream, half of each kind: inputs and targets, each (batch, context)."""
    kinds = (starts.anywhere, starts.lines)
    draws = [torch.randint(len(kind), (batch // 2, 1), device=data.device, generator=generator) for kind in kinds]
    start = torch.cat([kind[draw] for kind, draw in zip(kinds, draws, strict=True)])
    rows = data[start + torch.arange(context + 1, device=data.device)].long()
    return rows[:, :-1], rows[:, 1:]


def loss_of(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(ids)
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


@torch.no_grad()
def heldout_loss(model: nn.Module, data: Tensor, batch: int, context: int) -> float:
    """Mean loss in nats a token over consecutive windows of the held-out stream (whole batches only)."""
    model.eval()
    rows = min((len(data) - 1) // context, 512) // batch * batch
    starts = torch.arange(rows, device=data.device)[:, None] * context
    stream = data[starts + torch.arange(context + 1, device=data.device)].long()
    total = torch.stack([loss_of(model, part[:, :-1], part[:, 1:]) for part in stream.split(batch)]).mean()
    model.train()
    return float(total)


def save(model: Model, config: Config, corpus: Path, out: Path) -> None:
    """Writes model.safetensors (bf16), config.json and tokenizer.json."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": value.detach().to("cpu", torch.bfloat16) for name, value in model.named_parameters()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((corpus / "tokenizer.json").read_text("utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    facts = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    (out / "config.json").write_text(json.dumps(asdict(config) | facts, indent=1) + "\n", "utf-8")
    shutil.copy(corpus / "tokenizer.json", out / "tokenizer.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--out", type=Path, default=Path("build/demo_model/hf"))
    parser.add_argument("--minutes", type=float, default=6.0, help="time for the training steps")
    parser.add_argument("--steps", type=int, help="this many steps, whatever the time")
    parser.add_argument("--batch", type=int, default=128, help="windows a step")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--decay", type=float, default=0.3, help="weight decay of the matrices")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    config = Config()
    context = config.max_position_embeddings
    stream = np.load(arguments.corpus / "train.npy")
    found = window_starts(stream, Tokenizer.from_file(str(arguments.corpus / "tokenizer.json")), context)
    starts = Starts(found.anywhere.to(device), found.lines.to(device))
    train = torch.from_numpy(stream.astype(np.int32)).to(device)
    heldout = torch.from_numpy(np.load(arguments.corpus / "heldout.npy").astype(np.int32)).to(device)
    generator = torch.Generator(device).manual_seed(0)

    model = Model(config, arguments.dropout).to(device)
    compiled = torch.compile(model) if device == "cuda" else model
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=arguments.rate, weight_decay=arguments.decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=arguments.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda"),
    ]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(train):,} training tokens, {arguments.batch * context:,} tokens a step")

    steps: int = arguments.steps or 1_000_000
    budget = arguments.minutes * 60
    begin = mark = time.perf_counter()
    log: list[dict[str, float]] = []
    step = 0
    while step < steps:
        if step in TIMED:
            if device == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if step == TIMED[1] and not arguments.steps:
                steps = step + int((budget - (now - begin)) / ((now - mark) / (TIMED[1] - TIMED[0])) * 0.985)
                print(f"{(now - mark) / (TIMED[1] - TIMED[0]) * 1e3:.1f} ms a step, {steps} steps", flush=True)
            mark = now
        progress = step / steps if steps < 1_000_000 else 0.0
        rate = arguments.rate * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
        loss = loss_of(compiled, *windows(train, starts, arguments.batch, context, generator))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 250 == 0 or step == steps:
            measured = heldout_loss(compiled, heldout, arguments.batch, context)
            seconds = time.perf_counter() - begin
            log.append({"step": step, "seconds": round(seconds, 1), "train": loss.item(), "heldout": measured})
            print(f"step {step:6d}  {seconds:6.1f} s  train {loss.item():.4f}  held out {measured:.4f}", flush=True)
            if seconds > budget * 1.15:
                print("out of time: stopping before the schedule's end")
                break

    save(model, config, arguments.corpus, arguments.out)
    facts = {
        "parameters": parameters,
        "steps": step,
        "tokens": step * arguments.batch * context,
        "seconds": round(time.perf_counter() - begin, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "settings": {
            "batch": arguments.batch,
            "rate": arguments.rate,
            "dropout": arguments.dropout,
            "decay": arguments.decay,
        },
        "corpus": json.loads((arguments.corpus / "corpus.json").read_text("utf-8")),
        "log": log,
    }
    (arguments.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
