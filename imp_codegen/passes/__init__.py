"""Passes: plain functions over the graph, each named after its file."""
