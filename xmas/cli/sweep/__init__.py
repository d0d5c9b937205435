"""Multiruns: many jobs from one command, here, over processes or on SLURM.

What jobs share they find in the store, so nothing is divided up between them: each composes, builds
and asks the store. A job that fails or dies leaves the others running and is named at the end.
Hydra's own launchers stop at the first that failed, and wait for ever for one that was killed.
"""
