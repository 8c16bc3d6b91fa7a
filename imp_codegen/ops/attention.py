"""Causal attention over the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight, floats


@dataclass(frozen=True, slots=True)
class Attention(Op):
    """Appends k and v to the cache of `layer` and attends over it: softmax(scale * q k^T) v, causal.

    Without k and v it appends nothing: it reads the cache to which an earlier attention of that `layer` has appended.
    With a `window` w a token sees w positions, its own the last of them; with 0 all. With a `softcap` c a scaled score
    s becomes c * tanh(s / c); 0: it stays. `sinks` [1, heads]: of each head one more score, as it is, that has no
    value: exp(sink) is added to the sum that the weights are divided by. With `latent` n there is no v: the last n
    elements of a key are its value, and the cache has one row for both.
    """

    q: Value
    k: Value | None
    v: Value | None
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: Weight | None = None
    latent: int = 0

    @property
    def value_dim(self) -> int:
        """Elements of a head of values, and of the result."""
        return self.latent or self.head_dim

    def fits(self) -> bool:
        queries = self.q.width == self.heads * self.head_dim and self.out.width == self.heads * self.value_dim
        widths = {value.width if value else 0 for value in (self.k, self.k if self.latent else self.v)}
        keys = widths in ({0}, {self.kv_heads * self.head_dim}) and not (self.latent and self.v)
        latent = 0 <= self.latent <= self.head_dim
        sinks = self.sinks is None or (self.sinks.rows, self.sinks.cols) == (1, self.heads)
        return queries and keys and latent and sinks and self.heads % self.kv_heads == 0 and self.window >= 0

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        q, *new = read
        n = len(q)
        keys, *rest = (
            at.append(self.layer, np.stack(new).reshape(len(new), n, self.kv_heads, self.head_dim))
            if new
            else at.kept(self.layer)
        )
        values = rest[0] if rest else keys[..., self.head_dim - self.latent :]
        group = self.heads // self.kv_heads
        queries = q.reshape(n, self.kv_heads, group, self.head_dim).transpose(1, 2, 0, 3)
        scores = queries.reshape(self.kv_heads, group * n, self.head_dim) @ keys.transpose(1, 2, 0)
        scores = scores.reshape(self.kv_heads, group, n, -1) * self.scale
        if self.softcap:
            scores = self.softcap * np.tanh(scores / self.softcap)
        distance = at.positions[:, None] - np.arange(len(keys))[None, :]
        seen = (distance >= 0) & (distance < self.window) if self.window else distance >= 0
        scores = np.where(seen, scores, -np.inf)
        if self.sinks:
            sinks = at.vector(self.sinks).reshape(self.kv_heads, -1, 1, 1)
            scores = np.concatenate([scores, np.broadcast_to(sinks, (*scores.shape[:-1], 1))], axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = (weights / weights.sum(axis=-1, keepdims=True))[..., : len(keys)]
        out = weights.reshape(self.kv_heads, group * n, -1) @ values.transpose(1, 0, 2)
        return floats(out.reshape(self.kv_heads, group, n, -1).transpose(2, 0, 1, 3).reshape(n, -1))
