"""Models of random weights whose layers see and turn otherwise than their config says, each layer in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from imp_codegen import compiler
from imp_codegen.checkpoint import Checkpoint
from imp_codegen.spec import AttentionSpec, ModelSpec

Change = Callable[[AttentionSpec], AttentionSpec]


def sees(window: int, softcap: float = 0.0, theta: float = 10000.0) -> Change:
    return lambda old: replace(old, window=window, softcap=softcap, rope=replace(old.rope, theta=theta))


def sinks(window: int = 0) -> Change:
    return lambda old: replace(old, window=window, sinks=True)


def turns(dim: int, magnitude: float = 1.0, window: int = 0) -> Change:
    return lambda old: replace(old, window=window, rope=replace(old.rope, dim=dim, magnitude=magnitude))


def turns_nothing(window: int = 0) -> Change:
    return lambda old: replace(old, window=window, rope=None)


@dataclass(frozen=True)
class Mixed:
    """Layers' attention in turns, and changes of the config."""

    layers: tuple[Change, ...]
    config: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def built(self) -> Iterator[None]:
        """What is compiled meanwhile has such layers."""
        load = compiler.load_architecture

        def altered(checkpoint: Checkpoint) -> Any:
            found = load(checkpoint)

            def read_spec(checkpoint: Checkpoint) -> ModelSpec:
                spec = found.read_spec(checkpoint)
                changes = (self.layers[i % len(self.layers)] for i in range(len(spec.layers)))
                layers = (replace(old, mixer=new(old.mixer)) for old, new in zip(spec.layers, changes, strict=True))
                return replace(spec, layers=tuple(layers))

            return SimpleNamespace(read_spec=read_spec, build=found.build)

        with patch.object(compiler, "load_architecture", altered):
            yield


LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]}
MIXED = {
    "near and far, turning otherwise": Mixed(
        (sees(17), sees(0, theta=1e6), sees(17)), {"num_hidden_layers": 3, "head_dim": 32}
    ),
    "soft caps and large heads": Mixed((sees(40, 2.0), sees(0, 2.0)), {"head_dim": 256}),
    "some do not turn": Mixed((turns(64), turns_nothing(5), turns(64)), {**LLAMA, "num_hidden_layers": 3}),
    "nothing turns": Mixed((turns_nothing(),), {"head_dim": 32}),
    "parts of heads turn": Mixed((turns(64, 1.19), turns(64, 1.19, 9)), {"head_dim": 96}),
    "neighbours in parts of heads turn": Mixed((turns(16, 1.5, 16),), {**LLAMA, "head_dim": 48}),
    "sinks": Mixed((sinks(20), sinks()), {"num_attention_heads": 8}),
    "only itself": Mixed((sees(1), sees(2)), {"head_dim": 80}),
}
