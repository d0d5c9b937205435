"""Jobs for tests of commands that end: they leave a file with their process id, and wait."""

import os
import threading
import time
from pathlib import Path


def wait(mark: str) -> None:
    Path(f"{mark}.new").write_text(str(os.getpid()))
    Path(f"{mark}.new").rename(mark)
    time.sleep(600)


def job(mark: str) -> None:
    """As `xmas.cli.sweep.processes` starts its jobs."""
    from xmas.cli.sweep.processes import end_with_parent

    threading.Thread(target=end_with_parent, daemon=True).start()
    wait(mark)
