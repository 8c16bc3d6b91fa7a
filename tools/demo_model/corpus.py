"""Turns the running Python's standard library into token files for `train.py`.

    python tools/demo_model/corpus.py [--out build/demo_model]

Reads every source file of the standard library (its test suite too), the `pydoc` topics and the docstrings of the
functions written in C, and writes tokenizer.json, train.npy, heldout.npy (uint16 token ids, documents joined by
<|endoftext|>) and heldout.txt (a small sample of the held-out files). One file in twenty is held out, chosen by a hash
of its relative path. Part of the training data is restated as ChatML conversations. Deterministic for one Python.
"""

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import random
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from chat import SMALL_TALK, SYSTEM_PROMPT
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 2048
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# The split of the Qwen2 family: contractions, words with one leading character, single digits, punctuation, space runs.
WORD_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Code tables, generated documentation text (read through pydoc instead), files that describe one machine's build.
SKIPPED_PREFIXES = ("site-packages/", "dist-packages/", "encodings/", "pydoc_data/", "_sysconfig", "config-")
# fmt: off
C_MODULES = (
    "builtins", "math", "cmath", "itertools", "functools", "collections", "operator", "time", "datetime", "posix",
    "sys", "_struct", "array", "_bisect", "_heapq", "zlib", "_random", "_io", "_socket", "select", "_hashlib",
    "_thread", "_csv", "_json", "_sqlite3", "_decimal", "unicodedata", "binascii", "gc", "marshal", "signal",
    "errno", "_string", "_weakref", "_abc", "_asyncio", "_contextvars", "_lzma", "_bz2", "mmap", "fcntl", "pwd",
    "resource", "_pickle", "_statistics",
)
# fmt: on
HELDOUT_SAMPLE_BYTES = 60_000
# How often one epoch shows a part: tests are most of the text but the least like what people write; small talk is tiny.
LIBRARY_REPEATS = 2
SMALL_TALK_REPEATS = 12


def held_out(path: str) -> bool:
    """Whether the file at this relative path belongs to the held-out part."""
    return digest(path) % 20 == 0


def digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def source_files(root: Path) -> dict[str, str]:
    """Relative path -> text of every distinct source file that is UTF-8 and has something in it."""
    files: dict[str, str] = {}
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(SKIPPED_PREFIXES):
            continue
        try:
            text = path.read_text("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if len(text) > 200 and text not in seen:
            seen.add(text)
            files[name] = text
    return files


def pydoc_topics() -> dict[str, str]:
    """Topic -> the language reference's text for it."""
    topics = importlib.import_module("pydoc_data.topics").topics
    return {name: text.strip() for name, text in sorted(topics.items())}


def c_docstrings() -> dict[str, str]:
    """Qualified name -> docstring of functions, types and methods written in C, which no source file holds."""
    found: dict[str, str] = {}
    for module_name in C_MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        prefix = "" if module_name == "builtins" else module_name.lstrip("_") + "."
        for name, value in sorted(vars(module).items()):
            if name.startswith("_"):
                continue
            members = [(name, value)]
            if inspect.isclass(value) and not issubclass(value, BaseException):
                members += [
                    (f"{name}.{part}", member) for part, member in sorted(vars(value).items()) if part[0] != "_"
                ]
            for qualified, member in members:
                written_in_c = (
                    inspect.isbuiltin(member) or inspect.ismethoddescriptor(member) or inspect.isclass(member)
                )
                doc = inspect.getdoc(member) if written_in_c else None
                if doc and len(doc) > 20 and doc not in found.values():
                    found[prefix + qualified] = doc
    return found


def turn(user: str, assistant: str) -> str:
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def source_turns(path: str, text: str, choose: random.Random) -> Iterator[str]:
    """Questions and answers about the functions and classes of one source file."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    lines = text.split("\n")
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            owner = f"{parent.name}." if isinstance(parent, ast.ClassDef) else ""
            code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            length = code.count("\n") + 1
            doc = ast.get_docstring(node)
            if doc and len(doc) > 20:
                name = choose.choice((f"{module}.{owner}{node.name}", f"{owner}{node.name}"))
                ask = choose.choice(
                    ("What does `{}` do?", "What is `{}`?", "Explain `{}`.", "Describe `{}` in Python.")
                )
                yield turn(ask.format(name), doc[:1500])
            if isinstance(node, ast.ClassDef) or not 3 <= length <= 40:
                continue
            if doc and choose.random() < 0.7:
                purpose = " ".join(doc.split("\n\n")[0].split())
                signature = f"{node.name}({ast.unparse(node.args)})"
                ask = choose.choice(("Write a Python function `{}`. {}", "Implement `{}` in Python. {}"))
                yield turn(ask.format(signature, purpose), fenced(code))
            if length >= 6 and choose.random() < 0.08:
                cut = choose.randrange(1, length // 2 + 1)
                head, tail = code.split("\n")[:cut], code.split("\n")[cut:]
                ask = choose.choice(("Complete this code:", "Continue this code:", "Finish this Python function:"))
                yield turn(f"{ask}\n{fenced(chr(10).join(head))}", fenced("\n".join(tail)))


def conversations(turns: list[str], choose: random.Random) -> Iterator[str]:
    """Joins one to three turns into one conversation; some begin with a system message."""
    choose.shuffle(turns)
    at = 0
    while at < len(turns):
        count = choose.choice((1, 1, 2, 3))
        system = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n" if choose.random() < 0.25 else ""
        yield system + "".join(turns[at : at + count])
        at += count


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer; the special tokens take the last ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def heldout_sample(files: dict[str, str]) -> str:
    """Whole held-out files of moderate length, in hash order, up to HELDOUT_SAMPLE_BYTES bytes."""
    chosen: list[str] = []
    size = 0
    for name in sorted(files, key=digest):
        length = len(files[name].encode())
        if (
            held_out(name)
            and 1500 <= length <= 9000
            and size + length <= HELDOUT_SAMPLE_BYTES
            and files[name].isascii()
        ):
            chosen.append(files[name])
            size += length
    return "".join(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/demo_model"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    choose = random.Random(0)

    files = source_files(Path(sysconfig.get_paths()["stdlib"]))
    train_files = {name: text for name, text in files.items() if not held_out(name)}
    turns = [one for name, text in train_files.items() for one in source_turns(name, text, choose)]
    turns += [turn(f"What does `{name}` do?", doc[:1500]) for name, doc in c_docstrings().items()]
    topics = pydoc_topics()
    turns += [turn(f"Explain the topic `{name}` of the Python language.", text[:2500]) for name, text in topics.items()]
    small_talk = [turn(question, answer) for questions, answer in SMALL_TALK for question in questions]
    turns += small_talk * SMALL_TALK_REPEATS
    plain = [*train_files.values(), *topics.values()]
    plain += [f"{name}\n\n{doc}\n" for name, doc in c_docstrings().items()]
    chats = list(conversations(turns, choose))
    library = [text for name, text in train_files.items() if "test" not in name]
    documents = plain + library * (LIBRARY_REPEATS - 1) + chats
    choose.shuffle(documents)

    tokenizer = train_tokenizer(plain)
    tokenizer.save(str(out / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")

    def write(name: str, texts: list[str]) -> int:
        ids = [token for one in tokenizer.encode_batch_fast(texts) for token in (*one.ids, end)]
        np.save(out / name, np.array(ids, np.uint16))
        return len(ids)

    heldout_texts = [text for name, text in files.items() if held_out(name)]
    facts = {
        "python": sys.version.split()[0],
        "files": len(train_files),
        "heldout_files": len(heldout_texts),
        "chat_turns": len(turns),
        "chat_characters": sum(map(len, chats)),
        "train_characters": sum(map(len, documents)),
        "train_tokens": write("train.npy", documents),
        "heldout_tokens": write("heldout.npy", heldout_texts),
        "vocabulary": tokenizer.get_vocab_size(),
    }
    (out / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    (out / "heldout.txt").write_text(heldout_sample(files), "utf-8")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
