"""Jobs end with the command that started them, also when that is terminated or killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STARTS = {
    "a process": """
import multiprocessing, sys
import waiting

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=waiting.job, args=(sys.argv[1],))
    process.start()
    process.join()
""",
    "torchrun": """
import sys
from types import SimpleNamespace
from xmas.cli.sweep import torchrun

torchrun.command = lambda hardware: [
    sys.executable, "-c", "import sys, waiting; waiting.wait(sys.argv[1])", sys.argv[1]
]
config = SimpleNamespace(hydra=SimpleNamespace(runtime=SimpleNamespace(config_sources=[])))
torchrun.run_on_all(None, config, [], sys.argv[1] + ".log")
""",
}


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL], ids=lambda ends: ends.name)
@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux")
def test_a_job_ends_with_its_command(tmp_path, kind, ends):
    script, mark = tmp_path / "start.py", tmp_path / "mark"
    script.write_text(STARTS[kind])
    paths = {"PYTHONPATH": f"{HERE.parent}:{HERE}"}
    command = subprocess.Popen([sys.executable, script, mark], env=os.environ | paths)
    try:
        _until(mark.exists, 120)
        number = int(mark.read_text())
        assert _runs(number)
        command.send_signal(ends)
        command.wait(60)
        _until(lambda: not _runs(number), 60)
    finally:
        command.kill()
        command.wait()


def _until(holds, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def _runs(number: int) -> bool:
    """Whether a process is there, and not only its entry that nobody has asked for yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
