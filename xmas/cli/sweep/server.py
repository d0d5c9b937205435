"""The process that a multirun's jobs are forked from: multiprocessing imports this module there.

It imports once what the jobs would import each, as `IMPORTS` in its environment names it. What
cannot be imported is left to the job that needs it, which says what is wrong.
"""

import importlib
import json
import logging
import os
import sys

from xmas.cli import garbage

IMPORTS = "XMAS_IMPORTS"  # a JSON list of modules
AFTER_TORCH = ("xmas.estimate", "xmas.evaluation.scores")  # of the time left, and of most goals

log = logging.getLogger(__name__)


def prepare(names: list[str]) -> None:
    """Import the modules, and after torch what jobs with torch need; GPUs are left alone."""
    garbage.pause()  # each job resumes it when its goal is made
    for name in names:
        _import(name)
    if "torch" in sys.modules:
        for name in AFTER_TORCH:
            _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # of any kind: a server that ends takes all jobs with it
        log.debug("%s is not imported before the jobs start", name, exc_info=True)


if IMPORTS in os.environ:  # in the server alone
    prepare(json.loads(os.environ.pop(IMPORTS)))
