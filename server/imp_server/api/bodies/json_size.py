"""How many values a JSON text has, without making them."""

from __future__ import annotations

import numpy as np

_QUOTE = ord('"')


def values(text: bytes, enough: int) -> int:
    """The number of values in `text`, keys of objects not counted; an upper bound of it where that is below `enough`.

    Each but the first of an array or object stands behind a comma, the first behind its bracket; empty ones count for
    their content too. A text that is no JSON has some number. Python's lock is held for no long step.
    """
    counted = 1 + sum(text.count(sign) for sign in (b",", b"[", b"{"))
    if counted <= enough:
        return counted
    # Within strings they mean nothing. Once escapes are out of the way, every other quote begins a string.
    plain = text.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    signs = np.frombuffer(plain, np.uint8)
    outside = np.bitwise_xor.accumulate(signs == _QUOTE) == 0
    return 1 + sum(int(np.count_nonzero(outside & (signs == ord(sign)))) for sign in ",[{")
