"""How each streamed stage of decode is configured: the formula, the tables that stand over it, and the cost model."""
