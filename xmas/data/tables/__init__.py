"""Pools in Parquet or Arrow: shards, columns and their index."""
