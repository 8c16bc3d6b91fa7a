"""The text on which imp measures perplexity and divergence: prose, code, numbers and tables, in fifteen languages."""

from __future__ import annotations

from importlib import resources


def evaluation_text() -> str:
    """About 11,000 characters, written for imp and free for any use; some 3,000 tokens of a large vocabulary."""
    return resources.files(__package__).joinpath("evaluation_text.txt").read_text("utf-8")
