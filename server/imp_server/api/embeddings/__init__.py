"""Embeddings, as OpenAI and llama-server have them."""
