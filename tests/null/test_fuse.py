"""Every field and every edge of a graph counts: another value gives another program, or is refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest

from imp_codegen import ops
from imp_codegen.cache import cache_format
from imp_codegen.checkpoint import CheckpointError
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.graph import Graph, GraphError, Op, Value, Weight, inputs, verify, weights
from imp_codegen.kernels.family import FusionError
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.models import load_architecture, weights_of
from imp_codegen.ops import Add, Attention, ExpertLinear, HeadNorm, Linear, RmsNorm, Route, ScaleBy
from imp_codegen.ops import ropes as ropes_of
from imp_codegen.pack import planes
from imp_codegen.passes.place_weights import place_weights
from imp_codegen.passes.plan_state import plan_state
from imp_codegen.programs import lower
from imp_codegen.rope import RopeSpec, rope_turns
from imp_codegen.spec import Activation
from imp_codegen.targets import TargetError, find_target
from two_forms import CONFIG

# All vectors of one width, so that every value could be read in place of every other.
SQUARE = {
    "hidden_size": 320,
    "intermediate_size": 320,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "vocab_size": 320,
}
OPTIONAL = {(Linear, "bias"), (HeadNorm, "weight"), (Attention, "sinks"), (Route, "correction"), (Route, "scales")}
ACTIVATIONS = {*get_args(Activation)}
REFUSALS = (GraphError, FusionError, TargetError, CheckpointError)


class Program:
    """What becomes of a graph of the model that a config describes."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**CONFIG, **SQUARE, **changes}), "utf-8")
        self.checkpoint = random_checkpoint(path, "Q8_0")
        architecture = load_architecture(self.checkpoint)
        self.spec = architecture.read_spec(self.checkpoint)
        self.graph = architecture.build(self.spec)
        self.forms = ("graph", "persistent")

    def of(self, graph: Graph, form: str) -> object:
        """All that decides what runs: kernels and launches without words for people, planes, and tables."""
        verify(graph)
        placed = place_weights(graph, weights_of(self.checkpoint, graph, {}), self.checkpoint.path, ("sim",))
        ropes = ropes_of(graph)
        target = find_target("sm_90a")
        state = plan_state(graph, cache_format("f16"), self.spec.context, target.chunks[-1])
        low = Lowering(target, placed, state, ropes, self.spec.context)
        kernels = lower(low, graph, form).programs
        launches = [dataclasses.replace(d, name="", ops=(), outputs=()) for program in kernels for d in program.kernels]
        return launches, planes(placed, ropes), [rope_turns(rope).tolist() for rope in ropes]


# Layers of two kinds, of which the last reads the cache of the one before; inputs of the token's own, 64 a layer.
TWO_KINDS = {
    "architectures": ["Gemma4ForCausalLM"],
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "num_kv_shared_layers": 1,
    "attention_k_eq_v": True,
    "sliding_window": 40,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 64,
    "tie_word_embeddings": True,
}
MODELS = {
    "qwen3": {},
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "biases": {"architectures": ["LlamaForCausalLM"], "attention_bias": True},
}


EXPERTS = {"num_experts": 6, "moe_intermediate_size": 320}
LATENT = {"q_lora_rank": 320, "kv_lora_rank": 320, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "v_head_dim": 64}
GROUPS = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2, "n_shared_experts": 1}


def of_layer(layer: int, names: str) -> set[str]:
    return {f"layers.{layer}.{name}" for name in names.split()}


# Of models that have more than these: what they are, and the operations that are changed.
PARTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "two kinds of layers": (
        TWO_KINDS,
        of_layer(1, "attention v_norm q_norm scaled")
        | of_layer(2, "attention q_norm scaled inp_gate inp_gated inp_proj")
        | {"per_layer_model_proj", "per_layer_embed", "per_layer_proj_norm", "per_layer_inputs"},
    ),
    "norms of all heads": ({"architectures": ["Olmo2ForCausalLM"], "head_dim": None}, of_layer(1, "q_norm k_norm")),
    "scales": (
        {"architectures": ["GraniteForCausalLM"], "logits_scaling": 8.0, "residual_multiplier": 0.22},
        of_layer(1, "attn_residual residual") | {"embed", "logits", "scaled_logits", "token"},
    ),
    "caps": (
        {"architectures": ["Gemma2ForCausalLM"], "sliding_window": 40},
        of_layer(0, "attention") | {"logits", "capped_logits", "token"},
    ),
    "experts": (
        {
            "architectures": ["Qwen2MoeForCausalLM"],
            "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": 320,
            **EXPERTS,
        },
        of_layer(1, "ffn_norm router route gate up gated down combined experts_residual residual")
        | of_layer(1, "shared_gate shared_up shared_gated shared_weighed shared_down"),
    ),
    "sinks, and experts with biases": (
        {
            "architectures": ["GptOssForCausalLM"],
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "sliding_window": 40,
        },
        of_layer(0, "attention router route gate up gated down combined"),
    ),
    "latent attention and groups of experts": (
        {
            "architectures": ["DeepseekV3ForCausalLM"],
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 320,
            **LATENT,
            **GROUPS,
        },
        of_layer(1, "absorbed q k attn_kv_a_norm q_rope k_rope attention values attn_norm_kv route")
        | of_layer(1, "shared_gate shared_gated shared_down residual"),
    ),
    "a dense network beside experts": (
        {
            **TWO_KINDS,
            **EXPERTS,
            "top_k_experts": 2,
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "num_hidden_layers": 1,
            "layer_types": ["full_attention"],
        },
        of_layer(0, "attn_residual router_norm route pre_ffw_norm_2 combined post_ffw_norm_2 both residual"),
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    made = Program(tmp_path_factory.mktemp("model"), **MODELS[request.param])
    with closing(made.checkpoint):
        yield made


def others(graph: Graph, at: int, field: str) -> Iterator[object]:
    """Other values of a field of the operation at that place."""
    op = graph.ops[at]
    now = getattr(op, field)
    match now:
        case Value():
            yield from (op.out for op in graph.ops[:at] if op.out.width == now.width and op.out != now)
        case Weight():
            every = [weight for op in graph.ops for weight in weights(op)]
            same = [weight for weight in every if (weight.rows, weight.cols) == (now.rows, now.cols) and weight != now]
            yield from {weight.name: weight for weight in same}.values()
            yield from (dataclasses.replace(now, rows=now.rows + 1), dataclasses.replace(now, cols=now.cols * 2))
            yield dataclasses.replace(now, experts=0 if now.experts else 2)
            if (type(op), field) in OPTIONAL:
                yield None
        case None if isinstance(op, Attention) and field == "sinks":
            yield from (Weight(f"{op.out.name}_{heads}", 1, heads) for heads in (op.heads, op.heads + 1))
        case None if isinstance(op, Route):
            yield from (Weight(f"{op.out.name}_{more}", 1, op.experts + more) for more in (0, 1))
        case None if isinstance(op, ExpertLinear):
            yield from (Weight(f"{op.out.name}_{more}", 1, op.weight.rows + more) for more in (0, 1))
        case None if isinstance(op, Attention):
            yield from (op.out for op in graph.ops[:at] if op.out.width == graph.ops[at].out.width)
        case None:
            assert (type(op), field) in OPTIONAL
            width = op.head_dim if isinstance(op, HeadNorm) else op.out.width
            yield from (weight for weight in graph.weights().values() if (weight.rows, weight.cols) == (1, width))
        case RopeSpec():
            yield from (rope for name in TURNS for rope in turned(now, name))
        case bool():
            yield not now
        case str() if now in ACTIVATIONS:
            yield from ACTIVATIONS - {now}
        case int() | float():
            yield from {now * 2, now + 1, now / 2 if isinstance(now, float) else now // 2} - {now}
        case _:
            pytest.fail(f"{op}: {field} holds {now}; say here what else it may hold")


TURNS: dict[str, Callable[[RopeSpec], object]] = {
    "dim": lambda rope: rope.dim // 2,
    "theta": lambda rope: rope.theta * 2,
    "interleaved": lambda rope: not rope.interleaved,
    "factors": lambda rope: (2.0,) * (rope.dim // 2),
    "magnitude": lambda rope: rope.magnitude * 2,
}


def turned(rope: RopeSpec, field: str) -> list[RopeSpec]:
    factors = rope.factors[::2] if field == "dim" else rope.factors
    return [dataclasses.replace(rope, **{"factors": factors, field: TURNS[field](rope)})]


def mutants(graph: Graph, chosen: Callable[[str], bool]) -> Iterator[tuple[str, Op, Op, Graph]]:
    """Every graph that differs in one field of one operation: in words, the operation before and after, the graph."""
    for at, op in ((at, op) for at, op in enumerate(graph.ops) if chosen(op.out.name)):
        for field in dataclasses.fields(op):
            if field.name == "out":  # how a result is called, and what the shapes must be
                continue
            for value in others(graph, at, field.name):
                changed = dataclasses.replace(op, **{field.name: value})
                words = f"{op.out.name}.{field.name} = {getattr(value, 'name', value)}"
                yield words, op, changed, Graph((*graph.ops[:at], changed, *graph.ops[at + 1 :]))


def named(graph: Graph, before: Op, after: Op) -> set[str]:
    """What an error may call a mutant: the operation, or one that an edge of it leads from or to.

    Or one that is normed, scaled or added on the way to such, as one kernel does all of that.
    """
    near = {value.name for op in (before, after) for value in (op.out, *inputs(op))}
    for op in reversed(graph.ops):
        if op.out.name in near and isinstance(op, RmsNorm | ScaleBy | Add):
            near |= {value.name for value in inputs(op)}
    readers = {op.out.name for op in graph.ops for value in inputs(op) if value.name in near}
    return near | readers | {weight.name for op in (before, after) for weight in weights(op)}


@pytest.mark.parametrize("form", ["graph", pytest.param("persistent", marks=pytest.mark.thorough)])
def test_every_field_and_edge_counts(program: Program, form: str) -> None:
    every_field_and_edge_counts(program, form)


@pytest.mark.parametrize(
    ("part", "form"),
    [
        *((part, "graph") for part in PARTS),
        *(pytest.param(part, "persistent", marks=pytest.mark.thorough) for part in ("two kinds of layers", "caps")),
    ],
)
def test_every_field_and_edge_of_what_other_models_have_counts(tmp_path: Path, part: str, form: str) -> None:
    changes, names = PARTS[part]
    made = Program(tmp_path, **changes)
    with closing(made.checkpoint):
        every_field_and_edge_counts(made, form, names.__contains__)


def test_no_operation_is_left_out(tmp_path: Path) -> None:
    changed = set()
    for changes, names in (*((changes, None) for changes in MODELS.values()), *PARTS.values()):
        made = Program(tmp_path, **changes)
        made.checkpoint.close()
        own = {op.out.name: type(op) for op in made.graph.ops if names is None or op.out.name in names}
        assert names is None or own.keys() == names
        changed |= {*own.values()}
    assert changed == {each for each in vars(ops).values() if isinstance(each, type) and issubclass(each, Op)} - {Op}


def every_field_and_edge_counts(program: Program, form: str, chosen: Callable[[str], bool] = lambda _: True) -> None:
    """Of the operations whose result has a name that is chosen."""
    usual = program.of(program.graph, form)
    same, unnamed, refused, count = [], [], 0, 0
    for words, before, after, graph in mutants(program.graph, chosen):
        count += 1
        try:
            if program.of(graph, form) == usual:
                same.append(words)
        except REFUSALS as error:
            refused += 1
            if not any(name in str(error) for name in named(graph, before, after)):
                unnamed.append(f"{words}: {error}")
    assert (same, unnamed) == ([], [])
    assert 0 < refused < count


# rewired as other architectures are


def rewired(graph: Graph, changes: dict[str, dict[str, object]]) -> Graph:
    """The graph with fields of operations replaced; values and weights by name."""
    values = {op.out.name: op.out for op in graph.ops}
    found = {**values, **graph.weights()}

    def changed(op: Op) -> Op:
        fields = changes.get(op.out.name, {})
        return dataclasses.replace(op, **{k: found.get(v, v) if isinstance(v, str) else v for k, v in fields.items()})

    return Graph(tuple(changed(op) for op in graph.ops))


def ropes(program: Program, layers: range, parts: str = "qk", **changes: Any) -> dict[str, dict[str, object]]:
    rope = dataclasses.replace(ropes_of(program.graph)[0], **changes)
    return {f"layers.{layer}.{part}_rope": {"rope": rope} for layer in layers for part in parts}


def eps(graph: Graph, kind: type[Op]) -> dict[str, dict[str, object]]:
    return {op.out.name: {"eps": 0.5} for op in graph.ops if isinstance(op, kind)}


X, FIRST = "layers.0.attn_residual", range(1)
REWIRED = {
    "a parallel residual": (
        {"layers.0.ffn_norm": {"x": "embed"}},
        f"Add {X}: its kernel writes over embed, which RmsNorm layers.0.ffn_norm still reads",
    ),
    "v from the raw stream": (
        {"layers.0.v": {"x": "embed"}},
        "layers.0.v; in memory there is layers.0.q, layers.0.k and layers.0.v",
    ),
    "the embedding added again": (
        {"layers.0.residual": {"x": "embed"}},
        f"Add {X}: its kernel writes over embed, which Add layers.0.residual still reads",
    ),
    "up of the attention's norm": ({"layers.0.up": {"x": "layers.0.attn_norm"}}, "layers.0.up"),
    "a value read when it is gone": (
        {"layers.1.residual": {"x": "layers.0.residual"}},
        "writes over layers.0.residual, which Add layers.1.residual still reads",
    ),
}


@pytest.mark.parametrize("name", REWIRED)
def test_other_edges_are_refused(program: Program, name: str) -> None:
    changes, words = REWIRED[name]
    for form in ("graph", "persistent"):
        with pytest.raises(FusionError, match=words):
            program.of(rewired(program.graph, changes), form)


def test_other_properties_of_all_layers_give_another_program(program: Program) -> None:
    layers = range(len(program.spec.layers))
    for form in program.forms:
        changes = [{}, eps(program.graph, RmsNorm), ropes(program, layers, theta=5e5)]
        changes += [ropes(program, layers, interleaved=not ropes_of(program.graph)[0].interleaved)]
        changes += [eps(program.graph, HeadNorm)] if program.spec.layers[0].mixer.head_norms else []
        made = [program.of(rewired(program.graph, change), form) for change in changes]
        assert not any(one == other for i, one in enumerate(made) for other in made[:i])


def test_rotations_that_no_kernel_has_are_refused(program: Program) -> None:
    for changes, words in (
        (
            ropes(program, FIRST, dim=31),
            "Rope layers.0.q_rope: turns 31 elements of heads of 64; supported is a multiple of",
        ),
        (ropes(program, FIRST, "k", theta=5e5), "Rope layers.0.k_rope: turns otherwise than Rope layers.0.q_rope"),
    ):
        with pytest.raises(FusionError, match=words):
            program.of(rewired(program.graph, changes), "graph")


@pytest.mark.parametrize("changes", [{"theta": 5e5}, {"magnitude": 1.5}, {"dim": 32}])
def test_layers_that_turn_otherwise_have_tables_of_their_own(program: Program, changes: dict[str, float]) -> None:
    graph = rewired(program.graph, ropes(program, range(1, 2), **changes))
    for form in program.forms:
        launches, _, tables = program.of(graph, form)
        assert len(tables) == 2
        bound = [p.binding.buffer for launch in launches for _, p in launch.params() if "rope" in p.binding.buffer]
        assert set(bound) == {"weights/rope.turns.0", "weights/rope.turns.1"}


def test_layers_that_see_otherwise_are_taken_by_both_forms(program: Program) -> None:
    """And each form knows them apart: what one layer sees is not what the other does."""
    for form in program.forms:
        made = [program.of(program.graph, form)]
        for layer in (0, 1):
            made += [program.of(rewired(program.graph, {f"layers.{layer}.attention": {"window": 40}}), form)]
        assert not any(one == other for i, one in enumerate(made) for other in made[:i])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"layers.1.attention": {"softcap": 3.0}},
            r"Attention layers.1.attention: its soft cap \(3.0\) is not that of",
        ),
        (
            {"layers.1.attention": {"sinks": Weight("sinks", 1, 5)}},
            r"Attention layers.1.attention: its use of sinks \(True\) is not that of",
        ),
        ({"layers.1.attention": {"scale": 0.5}}, r"Attention layers.1.attention: its scale \(0.5\) is not that of"),
    ],
)
def test_layers_that_only_the_graph_takes(program: Program, changes: dict[str, Any], words: str) -> None:
    graph = rewired(program.graph, changes)
    assert program.of(graph, "graph") != program.of(program.graph, "graph")
    if "persistent" in program.forms:
        with pytest.raises(TargetError, match=words):
            program.of(graph, "persistent")
