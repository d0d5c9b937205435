"""What does not fit into its GPU is refused at the start; the documented commands do fit."""

import dataclasses
import re

import pytest
from omegaconf import DictConfig
from test_docs import COMMANDS
from toy import Toy

from xmas.cli.config import build, goal_node
from xmas.cli.unknown_settings import with_own_keys
from xmas.estimate import Estimate
from xmas.estimate.assumed import Assumed
from xmas.estimate.too_large import refuse_too_large
from xmas.store import Stage, Store
from xmas.store.planned_stages import planned_stages
from xmas.training import model_on_pool
from xmas.training.fit.recipe import Hardware
from xmas.training.model_on_pool import FittedOnPool

POOL = ("pool=files", "pool.annotations=/absent.json", "pool.images=.")
PLAIN = ("hardware.packing=false", "hardware.checkpointing=0", "hardware.logit_rows=null")
ON_A_GPU = [
    pytest.param(param.values[1], id=param.id)
    for param in COMMANDS
    if re.search(r"\bhardware=(?!cpu)|experiment=llava665k", str(param.id))
    and not re.search(r"accelerator=cpu|smolvlm_500m|goal=(doctor|table)", str(param.id))
]


@pytest.fixture
def empty(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def refuse(store: Store, *stages: Stage) -> None:
    refuse_too_large(stages, store, Assumed())


def seven_b(compose, *options: str) -> Stage:
    cfg: DictConfig = compose("target=llava15_7b", *POOL, *options)
    return build(cfg.target)


def test_the_presets_of_80_gb_fit_lora_of_7b_and_what_was_padded_is_refused(compose, empty):
    refuse(empty, seven_b(compose, "hardware=h100"))
    with pytest.raises(ValueError, match="LoRA of rank 128") as refused:
        refuse(empty, seven_b(compose, "hardware=h100", *PLAIN))
    text = str(refused.value)
    needed = int(
        re.search(r"needs (\d+) GB, by the estimate, and a H100 SXM 80 GB has 80 GB", text)[1]
    )
    assert needed > 120
    steps = re.findall(r"^  ([\w.]+=\w+)", text, re.MULTILINE)
    assert steps == [
        "hardware.logit_rows=1024",
        "hardware.packing=true",
        "hardware.checkpointing=1",
        "hardware=fsdp",
    ]
    override = re.search(r"To start it all the same: (\S+)$", text)[1]
    refuse(empty, seven_b(compose, "hardware=h100", *PLAIN, override))


def test_lora_of_7b_fits_a_card_of_24_gb_with_4_bits_alone(compose, empty):
    with pytest.raises(ValueError, match=r"\nwith another result: hardware\.quantise=nf4"):
        refuse(empty, seven_b(compose, "hardware=rtx4090"))
    refuse(empty, seven_b(compose, "hardware=rtx4090", "hardware.quantise=nf4"))


def test_full_fine_tuning_of_7b_needs_shards(compose, empty):
    with pytest.raises(ValueError, match=r"in full.*\n  hardware=fsdp"):
        refuse(empty, seven_b(compose, "target/recipe=full", "hardware=h100"))
    refuse(empty, seven_b(compose, "target/recipe=full", "hardware=fsdp"))


def test_a_cpu_and_a_device_of_unknown_size_refuse_nothing(compose, empty):
    refuse(empty, seven_b(compose, "hardware=cpu"))
    refuse(empty, seven_b(compose, "hardware=h100", "hardware.device=null", *PLAIN))


def test_all_commands_on_gpus_are_found():
    assert len(ON_A_GPU) >= 10


@pytest.mark.parametrize("command", ON_A_GPU)
def test_every_documented_command_fits_its_own_hardware(
    command, compose, empty, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for place in re.findall(r"[A-Z]{4,}", " ".join(w for w in command if "toward" in w)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "examples.json").write_text("[]")
    options = [
        f"{name}={value if value[0] in '[{' else value.split(',')[0]}"
        for name, _, value in (word.partition("=") for word in command if "=" in word)
        if name not in ("hydra.launcher.partition", "hydra.launcher.gpus_per_node")
    ]
    options = [option.replace("$SLURM_NNODES", "2") for option in options]
    goal = build(goal_node(compose(*with_own_keys(options))))
    stages = planned_stages(goal.goal if isinstance(goal, Estimate) else goal)
    fits = [stage for stage in stages if isinstance(stage, FittedOnPool)]
    assert all(fit.hardware.memory for fit in fits)
    refuse(empty, *fits)


def test_the_command_refuses_before_anything_runs(toy: Toy, server, tmp_path):
    ended = server.command(
        "goal=proxy", *toy.overrides()[:-1], f"store.root={tmp_path / 'store'}", "hardware=one_gpu",
        "hardware.device.memory=0.001", cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 1
    assert re.search(r"xmas: \w+ \(.*\) needs 0 GB, by the estimate, and a A100", ended.stderr)
    assert not [*(tmp_path / "store").rglob("*.safetensors")]


def test_float16_with_shards_is_refused_before_weights_are_loaded(
    toy: Toy, compose, empty, monkeypatch
):
    """XMAS's recipe needs loss scaling, which FSDP2 does not have."""
    cfg = compose("experiment=llava665k", "hardware=fsdp", "data=DIR", "benchmarks=DIR")
    with pytest.raises(ValueError, match=r"recipe\.precision=16-mixed .* take hardware=ddp"):
        build(cfg.target).check(empty)
    build(cfg.proxy).check(empty)  # in bfloat16

    def loaded(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(model_on_pool, "load", loaded)
    target = toy.target()
    recipe = dataclasses.replace(target.recipe, precision="16-mixed")
    sharded = dataclasses.replace(target, recipe=recipe, hardware=Hardware(strategy="fsdp2"))
    with pytest.raises(ValueError, match="take hardware=ddp"):
        toy.store.get(sharded)
