"""QK-norm, RoPE, KV append and attention, in decode and for chunks of a prompt."""
