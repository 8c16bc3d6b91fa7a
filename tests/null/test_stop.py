"""Stop strings against a reading of the text character by character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imp_server.generation.stop import StopMatcher


def feed(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    matcher = StopMatcher(stops)
    shown = [matcher.push(piece) for piece in pieces]
    shown.append(matcher.flush())
    return shown, matcher.matched


def truth(stops: list[str], text: str) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        for start in range(end):
            if text[start:end] in stops:
                return text[:start], text[start:end]
    return text, None


@given(
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("ab\n", max_size=3), max_size=8),
)
def test_any_cut_gives_what_the_whole_text_gives(stops: list[str], pieces: list[str]) -> None:
    shown, matched = feed(stops, pieces)
    assert ("".join(shown), matched) == truth(stops, "".join(pieces))


@given(stop=st.text("ab", min_size=1, max_size=4), pieces=st.lists(st.text("abc", max_size=3), max_size=8))
def test_only_a_possible_beginning_is_held_back(stop: str, pieces: list[str]) -> None:
    matcher = StopMatcher([stop])
    seen = shown = ""
    for piece in pieces:
        seen += piece
        shown += matcher.push(piece)
        if matcher.matched:
            break
        held = seen[len(shown) :]
        longest = max((n for n in range(len(stop)) if seen.endswith(stop[:n])), default=0)
        assert len(held) == longest


def test_text_without_a_beginning_is_not_delayed() -> None:
    assert feed(["</s>", "Observation:"], ["Hello", " wor", "ld"])[0] == ["Hello", " wor", "ld", ""]


def test_a_beginning_that_comes_to_nothing_is_shown_at_the_end() -> None:
    assert feed(["</s>"], ["a <", "/"]) == (["a ", "", "</"], None)


def test_nothing_after_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert [matcher.push(piece) for piece in ("x E", "ND y", "z")] == ["x ", "", ""]
    assert matcher.flush() == ""


@pytest.mark.parametrize("stops", [[], [""]])
def test_no_stop_strings(stops: list[str]) -> None:
    assert feed(stops, ["ab", ""]) == (["ab", "", ""], None)
