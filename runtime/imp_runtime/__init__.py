"""Runs any artifact; knows no model and no storage format."""
