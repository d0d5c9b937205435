"""Rows that show nearly the same picture or say nearly the same."""
