"""Puts this folder on the import path, so that tests of every tier find `fake_engine`."""
