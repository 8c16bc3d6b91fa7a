"""Which files of a repository are a model, by their names alone: as publishers of each family lay them out."""

from __future__ import annotations

import re

import pytest

from imp_server.remote.download import DownloadError, choose

SHARED = ("README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
INDEX = "model.safetensors.index.json"


def shards(count: int, *, first: int = 1, last: int | None = None, digits: int = 5) -> tuple[str, ...]:
    """`last`: as the names count them, where that is not their number."""
    total = str(last or count).zfill(digits)
    return tuple(f"model-{index:05}-of-{total}.safetensors" for index in range(first, first + count))


def parts(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}-{index:05}-of-{count:05}.gguf" for index in range(1, count + 1))


def quants(stem: str, names: str) -> tuple[str, ...]:
    return tuple(f"{stem}{name}.gguf" for name in names.split())


GEMMA = "gemma-4-26B-A4B-it"
CODER = "Qwen3-Coder-30B-A3B-Instruct"
# By repository; README and pictures left out where there are no others beside.
LISTINGS: dict[str, tuple[str, ...]] = {
    "unsloth/gemma-4-26B-A4B-it-GGUF": (
        *parts(f"BF16/{GEMMA}-BF16", 2),
        f"MTP/mtp-{GEMMA}-BF16.gguf",
        "config.json",
        *quants(f"{GEMMA}-", "MXFP4_MOE Q8_0 UD-IQ4_XS UD-Q3_K_M UD-Q4_K_M UD-Q4_K_XL UD-Q5_K_M UD-Q8_K_XL"),
        "imatrix_unsloth.gguf",
        *quants("mmproj-", "BF16 F16 F32"),
        f"mtp-{GEMMA}.gguf",
    ),
    "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF": (
        *parts(f"BF16/{CODER}-BF16", 2),
        "config.json",
        *quants(f"{CODER}-", "IQ4_NL IQ4_XS Q2_K Q2_K_L Q3_K_M Q4_0 Q4_1 Q4_K_M Q4_K_S Q5_K_M Q6_K Q8_0"),
        *quants(f"{CODER}-", "UD-IQ2_M UD-Q2_K_XL UD-Q4_K_M UD-Q4_K_XL UD-Q8_K_XL"),
        "imatrix_unsloth.dat",
    ),
    "unsloth/gpt-oss-120b-GGUF": (
        "F16/config.json",
        *parts("Q4_K_M/gpt-oss-120b-Q4_K_M", 2),
        *parts("UD-Q4_K_XL/gpt-oss-120b-UD-Q4_K_XL", 2),
        "gpt-oss-120b-F16.gguf",
        "template",
    ),
    "ggml-org/gpt-oss-20b-GGUF": ("README.md", "gpt-oss-20b-mxfp4.gguf"),
    "ggml-org/gpt-oss-120b-GGUF": parts("gpt-oss-120b-mxfp4", 3),
    "ggml-org/gemma-4-26B-A4B-it-GGUF": (
        *quants(f"{GEMMA}-", "Q4_K_M Q8_0 f16"),
        *quants(f"mmproj-{GEMMA}-", "Q8_0 f16"),
    ),
    "bartowski/Qwen_Qwen3-30B-A3B-GGUF": (
        *parts("Qwen_Qwen3-30B-A3B-bf16/Qwen_Qwen3-30B-A3B-bf16", 2),
        *quants("Qwen_Qwen3-30B-A3B-", "IQ4_NL IQ4_XS Q2_K Q2_K_L Q4_0 Q4_K_L Q4_K_M Q4_K_S Q5_K_M Q6_K Q6_K_L Q8_0"),
        "Qwen_Qwen3-30B-A3B-imatrix.gguf",
    ),
    "bartowski/mistralai_Mistral-Small-3.2-24B-Instruct-2506-GGUF": (
        *quants("mistralai_Mistral-Small-3.2-24B-Instruct-2506-", "Q4_K_L Q4_K_M Q8_0"),
        "mistralai_Mistral-Small-3.2-24B-Instruct-2506.imatrix",
        *quants("mmproj-mistralai_Mistral-Small-3.2-24B-Instruct-2506-", "bf16 f16"),
    ),
    "bartowski/DeepSeek-V2-Lite-Chat-GGUF": (
        *quants("DeepSeek-V2-Lite-Chat-", "IQ4_NL IQ4_XS Q3_K_M Q4_K_M Q4_K_S Q5_K_M Q6_K Q8_0"),
        "DeepSeek-V2-Lite-Chat.imatrix",
    ),
    "Qwen/Qwen3-30B-A3B-GGUF": quants("Qwen3-30B-A3B-", "Q4_K_M Q5_0 Q5_K_M Q6_K Q8_0"),
    "Qwen/Qwen2.5-7B-Instruct-GGUF": (
        *parts("qwen2.5-7b-instruct-fp16", 4),
        *parts("qwen2.5-7b-instruct-q4_0", 2),
        *parts("qwen2.5-7b-instruct-q4_k_m", 2),
        *quants("qwen2.5-7b-instruct-", "q2_k q3_k_m"),
        *parts("qwen2.5-7b-instruct-q8_0", 3),
    ),
    "google/gemma-3-12b-it-qat-q4_0-gguf": ("gemma-3-12b-it-q4_0.gguf", "mmproj-model-f16-12B.gguf"),
    "openai/gpt-oss-20b": (
        *SHARED,
        "chat_template.jinja",
        "metal/model.bin",
        *shards(3, first=0, last=2),
        INDEX,
        "original/config.json",
        "original/dtypes.json",
        "original/model.safetensors",
        "special_tokens_map.json",
    ),
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": (
        *SHARED,
        "consolidated.safetensors",
        *shards(10),
        INDEX,
        "params.json",
        "tekken.json",
    ),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (
        *SHARED,
        *(f"consolidated.{index:02}.pt" for index in range(8)),
        *shards(19),
        INDEX,
        "tokenizer.model",
    ),
    "deepseek-ai/DeepSeek-V2-Lite-Chat": (
        *SHARED,
        "configuration_deepseek.py",
        *shards(4, digits=6),
        INDEX,
        "modeling_deepseek.py",
    ),
    "google/gemma-4-26B-A4B-it": (*SHARED, "chat_template.jinja", *shards(2), INDEX, "processor_config.json"),
    "Qwen/Qwen3-0.6B": (*SHARED, "merges.txt", "model.safetensors", "vocab.json"),
    "both/whole-and-in-shards": (*SHARED, "model.fp16.safetensors", "model.safetensors", *shards(2), INDEX),
    "both/in-two-sets": (*SHARED, *shards(2), *shards(3), INDEX),
    "mistralai/only-consolidated": ("consolidated.safetensors", "params.json", "tekken.json"),
    "drafts/only": ("mtp-gemma-4-31B-it-Q8_0.gguf", "mmproj-F16.gguf"),
}
U, C, G = (f"unsloth/{each}-GGUF" for each in (GEMMA, CODER, "gpt-oss-120b"))
QWEN = "Qwen_Qwen3-30B-A3B"
# A repository, the quantisation that is asked for, and the weights that are meant.
CHOSEN: list[tuple[str, str | None, tuple[str, ...]]] = [
    (U, "UD-Q4_K_M", (f"{GEMMA}-UD-Q4_K_M.gguf",)),
    (U, "Q4_K_M", (f"{GEMMA}-UD-Q4_K_M.gguf",)),
    (U, "Q4_K_XL", (f"{GEMMA}-UD-Q4_K_XL.gguf",)),
    (U, "q8_0", (f"{GEMMA}-Q8_0.gguf",)),
    (U, "MXFP4_MOE", (f"{GEMMA}-MXFP4_MOE.gguf",)),
    (U, "BF16", parts(f"BF16/{GEMMA}-BF16", 2)),
    (C, "Q4_K_M", (f"{CODER}-Q4_K_M.gguf",)),
    (C, "UD-Q4_K_M", (f"{CODER}-UD-Q4_K_M.gguf",)),
    (C, "Q2_K", (f"{CODER}-Q2_K.gguf",)),
    (C, "BF16", parts(f"BF16/{CODER}-BF16", 2)),
    (G, "Q4_K_M", parts("Q4_K_M/gpt-oss-120b-Q4_K_M", 2)),
    (G, "F16", ("gpt-oss-120b-F16.gguf",)),
    ("ggml-org/gpt-oss-20b-GGUF", None, ("gpt-oss-20b-mxfp4.gguf",)),
    ("ggml-org/gpt-oss-120b-GGUF", None, parts("gpt-oss-120b-mxfp4", 3)),
    ("ggml-org/gemma-4-26B-A4B-it-GGUF", "Q8_0", (f"{GEMMA}-Q8_0.gguf",)),
    ("ggml-org/gemma-4-26B-A4B-it-GGUF", "F16", (f"{GEMMA}-f16.gguf",)),
    ("bartowski/Qwen_Qwen3-30B-A3B-GGUF", "Q4_K_M", (f"{QWEN}-Q4_K_M.gguf",)),
    ("bartowski/Qwen_Qwen3-30B-A3B-GGUF", "Q6_K", (f"{QWEN}-Q6_K.gguf",)),
    ("bartowski/Qwen_Qwen3-30B-A3B-GGUF", "bf16", parts(f"{QWEN}-bf16/{QWEN}-bf16", 2)),
    (
        "bartowski/mistralai_Mistral-Small-3.2-24B-Instruct-2506-GGUF",
        "Q8_0",
        ("mistralai_Mistral-Small-3.2-24B-Instruct-2506-Q8_0.gguf",),
    ),
    ("bartowski/DeepSeek-V2-Lite-Chat-GGUF", "IQ4_XS", ("DeepSeek-V2-Lite-Chat-IQ4_XS.gguf",)),
    ("Qwen/Qwen3-30B-A3B-GGUF", "Q8_0", ("Qwen3-30B-A3B-Q8_0.gguf",)),
    ("Qwen/Qwen2.5-7B-Instruct-GGUF", "Q4_K_M", parts("qwen2.5-7b-instruct-q4_k_m", 2)),
    ("Qwen/Qwen2.5-7B-Instruct-GGUF", "Q3_K_M", ("qwen2.5-7b-instruct-q3_k_m.gguf",)),
    ("google/gemma-3-12b-it-qat-q4_0-gguf", None, ("gemma-3-12b-it-q4_0.gguf",)),
    ("openai/gpt-oss-20b", None, shards(3, first=0, last=2)),
    ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", None, shards(10)),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", None, shards(19)),
    ("deepseek-ai/DeepSeek-V2-Lite-Chat", None, shards(4, digits=6)),
    ("google/gemma-4-26B-A4B-it", None, shards(2)),
    ("Qwen/Qwen3-0.6B", "safetensors", ("model.safetensors",)),
    ("both/whole-and-in-shards", None, ("model.safetensors",)),
]


@pytest.mark.parametrize(("repository", "quant", "weights"), CHOSEN)
def test_the_weights_that_are_meant(repository: str, quant: str | None, weights: tuple[str, ...]) -> None:
    names = LISTINGS[repository]
    chosen = choose("hf:x/y", names, quant)
    assert tuple(name for name in chosen if name.endswith((".gguf", ".safetensors"))) == weights
    folder = weights[0].endswith(".safetensors")
    texts = {name for name in names if name in (*SHARED[1:], "chat_template.jinja", "tokenizer.model", INDEX)}
    texts -= {INDEX} if weights == ("model.safetensors",) else set()
    assert {*chosen} - {*weights} == (texts if folder else set())
    assert chosen[0] == ("config.json" if folder else weights[0])


AMBIGUOUS: list[tuple[str, str | None, str]] = [
    (U, None, f"more than one fits; add :QUANT for one of BF16/{GEMMA}-BF16-*-of-00002.gguf, {GEMMA}-MXFP4_MOE.gguf, "),
    (U, "Q4_K_S", "no file is Q4_K_S; add :QUANT for one of "),
    (G, "Q8_0", "no file is Q8_0; add :QUANT for one of Q4_K_M/gpt-oss-120b-Q4_K_M-*-of-00002.gguf, UD-Q4_K_XL/"),
    ("Qwen/Qwen3-30B-A3B-GGUF", "Q4_K", "no file is Q4_K; add :QUANT for one of Qwen3-30B-A3B-Q4_K_M.gguf, "),
    (
        "both/in-two-sets",
        None,
        "has its weights more than once: model-00001-of-00002.safetensors, model-00001-of-00003",
    ),
    ("mistralai/only-consolidated", None, "no GGUF file, and no safetensors beside a config.json"),
    ("drafts/only", "Q8_0", "the repository has no GGUF file"),
    ("Qwen/Qwen3-0.6B", "Q8_0", "the repository has no GGUF file; look for one with -GGUF in its name"),
]


@pytest.mark.parametrize(("repository", "quant", "words"), AMBIGUOUS)
def test_what_is_not_clear_is_said_with_what_there_is(repository: str, quant: str | None, words: str) -> None:
    with pytest.raises(DownloadError, match=re.escape(words)):
        choose("hf:x/y", LISTINGS[repository], quant)


def test_two_models_of_one_quantisation() -> None:
    files = [*quants("base-", "Q4_K_M Q8_0"), *quants("tuned-", "Q4_K_M Q8_0")]
    with pytest.raises(DownloadError, match=r"more than one is Q4_K_M: base-Q4_K_M.gguf, tuned-Q4_K_M.gguf; download"):
        choose("hf:x/y", files, "Q4_K_M")
