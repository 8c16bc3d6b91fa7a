"""The processes of `imp serve`: a parent that keeps the others, the engine's, and one that speaks HTTP."""
