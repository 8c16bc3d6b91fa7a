"""The version of imp; part of every artifact."""

VERSION = "0.1.0"
