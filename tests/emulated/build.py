"""Compile the emulated device once, into a cache folder; needs a C++ compiler and no CUDA."""

import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

SOURCES = sorted((Path(__file__).parent / "device").iterdir())


def torch_folder() -> Path:
    """Where torch is installed; it is not imported."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def library() -> Path:
    """The compiled device, of these sources and this torch; compiled where it is not there yet.

    Raises RuntimeError: no compiler, or it fails.
    """
    version = importlib.metadata.version("torch")
    digest = hashlib.sha256(version.encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmas-emulated-gpu"
    built = cache / f"{digest.hexdigest()[:16]}.so"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(built.with_suffix(".lock")):  # the workers of pytest-xdist start together
        if not built.exists():
            compile_to(built)
    return built


def compile_to(built: Path) -> None:
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(
            f"the emulated GPU is compiled, and there is no {compiler[0]}: install g++ (Debian: "
            "apt-get install g++), or name a compiler by the environment variable CXX"
        )
    torch = torch_folder()
    includes = torch / "include", torch / "include" / "torch" / "csrc" / "api" / "include"
    options = "-O1", "-std=c++20", "-fPIC", "-w", *(f"-I{folder}" for folder in includes)
    with tempfile.TemporaryDirectory(dir=built.parent) as draft:
        output = Path(draft) / built.name
        objects = {
            source: str(Path(draft) / f"{source.stem}.o")
            for source in SOURCES
            if source.suffix == ".cpp"
        }
        run(*([*compiler, *options, "-c", str(source), "-o", part]
              for source, part in objects.items()))  # fmt: skip
        libraries = f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-lc10", "-ltorch_cpu"
        run([*compiler, "-shared", *objects.values(), "-o", str(output), *libraries])
        output.rename(built)


def run(*commands: list[str]) -> None:
    """Side by side: half a minute each, most of it torch's headers."""
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    printed = [process.communicate()[0] for process in processes]
    for command, process, text in zip(commands, processes, printed, strict=True):
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{text}")
