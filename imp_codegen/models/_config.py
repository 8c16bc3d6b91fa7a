"""What config.json says of a decoder in ways of its own (transformers, models/*/configuration_*.py)."""

from __future__ import annotations

from collections.abc import Mapping

from imp_codegen.checkpoint import Metadata
from imp_codegen.spec import Activation, Biased

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def config_activation(config: Metadata, usual: Activation) -> Activation:
    """The activation that it names."""
    key = "decoder.activation"
    if key not in config:
        return usual
    found = _ACTIVATIONS.get(config.string(key))
    if found is None:
        raise config.wrong(key, f"one of {', '.join(_ACTIVATIONS)}")
    return found


def config_biases(config: Metadata, always: tuple[Biased, ...]) -> tuple[Biased, ...]:
    """Which products have a bias, in every layer. `always`: those of a class whatever its config.json says."""
    every = config.boolean("use_bias", False)
    q_k_v = every or config.boolean("attention_bias", False)
    # Where a class has biases whatever is said, `attention_bias` says so of them (Qwen2's output has none).
    output = config.boolean("attention_out_bias", q_k_v and not always)
    mlp = every or config.boolean("mlp_bias", False)
    found: tuple[Biased, ...] = ("q", "k", "v") if q_k_v else tuple(part for part in always if part != "output")
    found += ("output",) if output or "output" in always else ()
    return (*found, *(("gate", "up", "down") if mlp else ()))


def config_windows(config: Metadata, layers: int) -> tuple[bool, ...]:
    """Which layers see a window only.

    `layer_types` decides; else `use_sliding_window` says whether there is one, from layer `max_window_layers` on.
    """
    first = config.integer("max_window_layers", 0)
    windowed = config.boolean("use_sliding_window", True)
    kinds = config.strings("layer_types", ())
    if not kinds:
        return tuple(windowed and index >= first for index in range(layers))
    if len(kinds) != layers or not {*kinds} <= {_LOCAL, _GLOBAL}:
        raise config.wrong("layer_types", f"{_LOCAL} or {_GLOBAL} for each of the {layers} layers")
    return tuple(windowed and kind == _LOCAL for kind in kinds)
