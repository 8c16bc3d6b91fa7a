"""Floats of eight bits."""

from __future__ import annotations


def e4m3(code: int) -> float:
    """What a code of e4m3fn stands for, as its definition says (https://onnx.ai/onnx/technical/float8.html)."""
    sign, exponent, mantissa = -1 if code & 128 else 1, code >> 3 & 15, code & 7
    if code & 127 == 127:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
