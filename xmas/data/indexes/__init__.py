"""The index of a pool, in arrays that may be memory-mapped, and what builds it."""
