"""Where what the CUDA compiler sees lies."""

from pathlib import Path


def templates() -> Path:
    """The folder of headers and of the source's template: in a checkout beside this package, in a wheel inside it."""
    inside = Path(__file__).parent / "templates"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "templates"
