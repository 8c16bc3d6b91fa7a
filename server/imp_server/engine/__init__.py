"""The engine in a process of its own, and what speaks with it: `host.py` runs there, `client.py` where HTTP is."""
