"""A server that runs commands, as a user types them, in forks of a process that has no torch.

A command comes as a line of JSON on standard input; the answer is a line with the process id of
its fork when it starts and a line with its exit status when it ends. Files get what it says, and
last, on standard error, whether it has loaded torch.
"""

import gc
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from composing import quick_commands
from unsynced import unsynced

import xmas.cli.command  # once, not in every fork
import xmas.evaluation.rescore  # noqa: F401  # with numpy, the same


def command(given: dict[str, Any]) -> int:
    """`xmas`, or a script, with these arguments; what it says goes into files. The exit status."""
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(Path(given["root"]) / name, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(given["cwd"])
    script = given.get("script")
    sys.argv = [script or "xmas", *given["command"]]
    try:
        if script is None:  # as `python -m xmas`: processes of a multirun import no main program
            runpy.run_module("xmas", run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(script).parent))  # as Python does
            runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:  # a text is said on the way out
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    finally:
        sys.stdout.flush()
    return 0


def serve() -> None:
    quick_commands()
    unsynced()
    gc.freeze()
    gc.enable()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = command(json.loads(line))
            print("torch" in sys.modules, file=sys.stderr, flush=True)
            os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
