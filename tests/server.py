"""What starts `killable` or `commands` and talks to it."""

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from toy import Toy

HERE = Path(__file__).parent


class Server:
    """Runs jobs and commands in forked processes; a started job can be killed from outside."""

    def __init__(self, program: str = "killable") -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        # Huge pages: a fork has fewer to list, which took a tenth of a command, and so has its end.
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        # Imports make millions of objects and no garbage: looking for it was a third of the start.
        start = f"import gc, sys; gc.disable(); sys.path[0] = {str(HERE)!r}; import {program}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{start}; {program}.serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def start(self, toy: Toy, root: Path, job: str, dies=None, seconds: float = 0, **more) -> int:
        """Begin a job; gives its process id."""
        given = {"folder": str(toy.folder), "root": str(root), "job": job} | more
        self.process.stdin.write(json.dumps(given | {"dies": dies, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def has_ended(self) -> bool:
        """Whether the started job has ended; its process may have gone on to wait for another."""
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def wait(self) -> int:
        """The exit status of the started job."""
        return int(self.process.stdout.readline())

    def run(self, *given, **options) -> int:
        self.start(*given, **options)
        return self.wait()

    def command(self, *arguments: str, cwd: Path, dies=None) -> subprocess.CompletedProcess:
        """The command `xmas`, without the seconds that a new interpreter needs for torch.

        `dies`: one of `DEATHS`, and in which call of it the process kills itself.
        """
        return self._forked({"command": list(map(str, arguments)), "cwd": str(cwd), "dies": dies})

    def script(self, path: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
        """`python path ...`, without these seconds either."""
        return self._forked(
            {"command": list(map(str, arguments)), "cwd": str(cwd), "script": str(path)}
        )

    def _forked(self, given: dict[str, Any]) -> subprocess.CompletedProcess:
        with tempfile.TemporaryDirectory() as said:
            given = {"dies": None} | given | {"root": said}
            self.process.stdin.write(json.dumps(given) + "\n")
            self.process.stdin.flush()
            self.process.stdout.readline()
            code = self.wait()
            out, err = ((Path(said) / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(given["command"], code, out, err)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
