"""GBNF against regular expressions of Python, on all short texts."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from test_structured import allowed, begin, fits, vocabulary

from imp_runtime.constraint import unpack_bits
from imp_server.grammar import masks
from imp_server.grammar.masks import GrammarError

# A grammar and the regular expression of the same texts, to be tried with all texts of these letters up to a length.
SAME: list[tuple[str, str, str, int]] = [
    ('root ::= ("a"*)?', "(a*)?", "ab", 4),
    ('root ::= ("a"*)*', "(a*)*", "ab", 4),
    ('root ::= ("a" | "b"){2,3} "c"?', "[ab]{2,3}c?", "abc", 4),
    ('root ::= "ab"+ | x{0,2}\nx ::= [b-c]', "(ab)+|[bc]{0,2}", "abc", 4),
    ('root ::= "a"{2} "b"{1,}', "a{2}b+", "ab", 5),
    ('root ::= "a"? "ab" | "a" ("b")? "b"', "a?ab|ab?b", "ab", 4),  # no word ends too late
    ('root ::= [^a] . "b"', r"[^a](?s:.)b", "ab\n", 3),
    ('root ::= "a"   # says a\n\n# b\n', "a", "ab", 2),
    ('root ::= (\n  "a" |\n  # or\n  "b" rest\n)\nrest ::= "a" |\n "c"', "a|ba|bc", "abc", 3),
    ("root ::= [a-]", "[a-]", "a-b", 2),
    (r'root ::= "\x61\n\"" | [\]\[\\]', r'a\n"|[\]\[\\]', 'a\n"[]\\', 3),
    ('root ::= root-1_B\nroot-1_B ::= "a"', "a", "ab", 2),
    ("root ::= ", "", "a", 1),
]


@pytest.mark.parametrize(("grammar", "expression", "letters", "longest"), SAME)
def test_the_same_texts(grammar: str, expression: str, letters: str, longest: int) -> None:
    held = masks.compile("gbnf", grammar, vocabulary())
    for length in range(longest + 1):
        for text in map("".join, itertools.product(letters, repeat=length)):
            assert fits(held, vocabulary(), text) == bool(re.fullmatch(expression, text)), text


@pytest.mark.parametrize("escape", [r"\u00e9", r"\xe9", r"\U000000e9", "é"])
def test_escapes_of_characters(escape: str) -> None:
    for grammar in (f'root ::= "{escape}"', f"root ::= [{escape}]"):
        held = masks.compile("gbnf", grammar, vocabulary())
        assert fits(held, vocabulary(), "é")
        assert not fits(held, vocabulary(), "e")
    assert fits(masks.compile("gbnf", r'root ::= "\U0001F600" [^\U0010fffe]', vocabulary()), vocabulary(), "😀é")


def test_rules_that_contain_themselves() -> None:
    grammar = 'root ::= list\nlist ::= "[" ws (item ("," ws item)*)? "]" ws\nitem ::= list | [0-9]+ ws\nws ::= [ ]*'
    held = masks.compile("gbnf", grammar, vocabulary())
    for text in ("[]", "[1]", "[ 12 , [3], []] ", "[[[]]]"):
        assert fits(held, vocabulary(), text), text
    for text in ("", "[", "[1,]", "[1 2]", "]", "[[]"):
        assert not fits(held, vocabulary(), text), text


def test_tokens() -> None:
    vocab = vocabulary(tags=True)
    (opening,), (closing,) = vocab.encode("<think>"), vocab.encode("</think>")
    by_id = f'root ::= <[{opening}]> thinking <[{closing}]> "a"\nthinking ::= !<[{closing}]>*'
    by_text = 'root ::= <think> thinking </think> "a"\nthinking ::= !</think>*'
    for grammar in (by_id, by_text):
        mask = begin(masks.compile("gbnf", grammar, vocab), vocab)
        assert list(allowed(mask, vocab)) == [opening]
        for token in vocab.encode("<think>hm<|end|>"):
            mask.accept(token)
        words = mask.mask()
        assert words is not None
        inside = set(map(int, np.flatnonzero(unpack_bits(words, vocab.vocab))))
        assert {opening, closing, *vocab.encode("x")} <= inside
        mask.accept(closing)
        assert list(allowed(mask, vocab)) == vocab.encode("a")


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('root ::= "a', 'line 1: expected " before the end'),
        ('x ::= "a"', "there is no rule root"),
        ("root ::= gone", "the rule root uses gone, which is not defined"),
        ('root ::= "a"\nx = "b"', "line 2: expected ::= behind x"),
        (r'root ::= "\q"', r"line 1: \\q is no escape"),
        (r'root ::= "\ud800"', r"line 1: \\ud800 is no character"),
        (r'root ::= "\u12"', r"line 1: \\u12. is no escape"),
        ("root ::= [z-a]", "line 1: the range 'z' to 'a' goes backwards"),
        ("root ::= []", "line 1: a class of characters is empty"),
        ('root ::= ("a"', r"line 1: expected \)"),
        ('root ::= "a"{3,2}', r"line 1: \{3,2\} is at least 3 and at most 2"),
        ('root ::= "a"{x}', r"line 1: expected \{times\}"),
        ("root ::= <gone>", "line 1: <gone> is no token of this model"),
        ('root ::= "a" )', r"line 1: cannot read '\)'"),
        ("root ::= " + "(" * 1000, "line 1: brackets are too deep in each other"),
    ],
)
def test_errors_say_where(grammar: str, message: str) -> None:
    with pytest.raises(GrammarError, match=f"^the GBNF grammar cannot be used: {message}"):
        masks.compile("gbnf", grammar, vocabulary())
