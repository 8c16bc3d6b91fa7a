"""The compiler: a checkpoint in, an artifact out. Needs no GPU."""
