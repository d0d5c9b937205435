"""Multiruns: many jobs from one command, in this process, in several, or on SLURM.

Jobs share results through the store, so work is not divided among them: each composes its
configuration, builds its goal and asks the store. When a job fails or dies, the others continue,
and a summary at the end names it. Hydra's launchers stop at the first failure, and wait without end
for a job that was killed.
"""
