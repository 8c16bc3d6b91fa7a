"""The text that imp carries is there, is plain, and speaks several languages."""

from __future__ import annotations

import unicodedata

from imp_runtime.evaluation_text import evaluation_text


def test_text() -> None:
    text = evaluation_text()
    assert 10_000 < len(text) < 16_000
    assert text == unicodedata.normalize("NFC", text)
    assert all(c == "\n" or c.isprintable() for c in text)
    scripts = {unicodedata.name(c).split(" ")[0] for c in text if c.isalpha()}
    assert {"LATIN", "CYRILLIC", "GREEK", "CJK", "HIRAGANA", "HANGUL", "ARABIC", "DEVANAGARI"} <= scripts
