"""Runs scripts one after the other in this process: a JSON list of their paths and arguments.

Prints, as JSON, the exit status of each and what it printed.
"""

import contextlib
import io
import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


def run(script: str, *arguments: str) -> dict[str, Any]:
    """As Python does with a script, in an empty folder."""
    output, errors, path = io.StringIO(), io.StringIO(), list(sys.path)
    sys.argv, sys.path[:0] = [script, *arguments], [str(Path(script).parent)]
    status: Any = None
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        os.chdir(folder)
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        except BaseException:
            status = traceback.format_exc()
        os.chdir("/")
    sys.path[:] = path
    if isinstance(status, str):
        errors.write(status)
    code = status if isinstance(status, int) else int(status is not None)
    return {"status": code, "output": output.getvalue(), "errors": errors.getvalue()}


if __name__ == "__main__":
    print(json.dumps([run(*words) for words in json.loads(sys.argv[1])]))
