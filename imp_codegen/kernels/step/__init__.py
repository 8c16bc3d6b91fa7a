"""The persistent form of a decode step: which models it takes, its numbers, and the check that it cannot hang."""
