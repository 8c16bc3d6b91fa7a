"""Tuning: how the stages of decode are configured, and who says so.

Three things can, and the first that does counts: a table (`table.py`: a person's own, then the one that lies beside a
card), which `imp tune` has measured or the cost model predicted; the formulas (`stage.py`, `step.py`), by the numbers
of the card. `measure/` is `imp tune`: it runs candidates of a whole model's step against each other and writes a table.
`cost_model.py` makes a table for a card that nobody has measured.
"""
