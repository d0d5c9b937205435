"""Before anything imports torch: few threads, no network. The toy's stages are made once a run.

Beside other workers of the run one thread each, or they wait for each other; alone two. Idle ones
sleep instead of spinning: on a machine with other work, spinning makes the toy's small matrices
fifty times slower.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import copy
import functools
import io
import types
import typing

import jaxtyping
import pytest
from hydra._internal import defaults_list
from omegaconf import OmegaConf, grammar_parser


def has_shape(hint: object) -> bool:
    """Or may have one: a string may stand for anything."""
    if isinstance(hint, str):
        return True
    inside = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return inside or any(map(has_shape, typing.get_args(hint)))


def jaxtyped(*, typechecker, _shapes=jaxtyping.jaxtyped):
    """What checks each function of xmas; without shapes the type checker alone does.

    jaxtyping binds the arguments and checks them twice at each call, for shapes that are not there.
    """

    def checked(held):
        if isinstance(held, types.FunctionType) and not any(
            map(has_shape, held.__annotations__.values())
        ):
            return typechecker(held)
        return _shapes(held, typechecker=typechecker)

    return checked


jaxtyping.jaxtyped = jaxtyped  # before anything imports xmas

THIRD_PARTY = (  # what cannot be mended here, one by one; all other warnings are errors
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft 0.21
    "ignore:Pydantic V1 style:DeprecationWarning",  # wandb-workspaces 0.4
)


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session", autouse=True)
def parsed_once():
    """YAMLs and interpolations are parsed once: tests compose the configuration a thousand times.

    A loaded YAML is written to, so each asker has a copy; parse trees are only read. Hydra's map of
    choices for interpolated defaults, else made at every node, is made where there is one.
    """
    parse, known = OmegaConf.load, {}
    choices = defaults_list._create_interpolation_map

    def load(file):
        if not hasattr(file, "read"):
            return parse(file)
        text = file.read()
        if text not in known:
            known[text] = parse(io.StringIO(text))
        return copy.deepcopy(known[text])

    def asked(overrides, defaults, self_added):
        if any(default.is_interpolation() for default in defaults if not default.is_self()):
            return choices(overrides, defaults, self_added)
        return None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OmegaConf, "load", staticmethod(load))
        patched.setattr("omegaconf.base.parse", functools.cache(grammar_parser.parse))
        patched.setattr(defaults_list, "_create_interpolation_map", asked)
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory):
    """A pool of 41 rows with its files written; stages are computed as tests ask for them."""
    from toy import build

    return build(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def server():
    """Forks of a process that has imported torch and all of xmas; started where a test asks."""
    from server import Server

    running = Server()
    yield running
    running.close()
