"""Pools in JSON, a list or a record a line: stream, index and write them."""
