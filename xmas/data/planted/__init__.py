"""Pools with planted truths: copies, wrong answers and pictures, of which every row is known."""
