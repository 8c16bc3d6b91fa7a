"""Structured output: schemas, regexes and grammars, made into masks of the next token."""
