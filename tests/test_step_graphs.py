"""Graphs of decode steps: eager once, captured once, then replayed; dropped when memory moves."""

import functools

import pytest
import torch
from emulated.recorded_graph import RecordedGraph, captured_on

from xmas.evaluation.generation import graphs
from xmas.evaluation.generation.graphs import StepGraphs

CPU = torch.device("cpu")


@pytest.fixture
def captured(monkeypatch) -> list[RecordedGraph]:
    return captured_on("cpu", monkeypatch)


def test_a_step_is_run_captured_and_replayed(captured):
    """By hand: x becomes x + y, y is the length; a replay is one more step, a capture is none."""
    x, scratch, ran = torch.zeros(1), torch.ones(1), []

    def step(length: int) -> None:
        ran.append(length)
        x.add_(scratch * length)

    steps = StepGraphs(CPU)
    for length in (2, 3, 2, 2, 3, 2):
        steps.run(length, functools.partial(step, length))
    assert x.item() == 2 + 3 + 2 + 2 + 3 + 2
    assert ran == [2, 3, 2, 3]  # eager, eager, captured, captured; replays run no Python
    assert [graph.replays for graph in captured] == [3, 1]
    steps.clear()
    steps.run(2, functools.partial(step, 2))
    assert x.item() == 16
    assert len(captured) == 2


def test_the_graph_that_was_used_least_recently_is_dropped(captured):
    x = torch.zeros(1)
    steps = StepGraphs(CPU, most=2)
    for shape in (1, 1, 2, 2, 1, 3, 1, 2, 2):
        steps.run(shape, lambda: x.add_(1))
    assert x.item() == 9
    assert len(captured) == 3  # 1, 2, and 2 once more, which 3 had displaced


def test_devices_without_graphs_and_graphs_that_are_turned_off_run_eagerly(captured, monkeypatch):
    ran = []
    for steps in (StepGraphs(CPU, enabled=False), StepGraphs(torch.device("meta"))):
        for _ in range(3):
            steps.run(0, lambda: ran.append(0))
    assert len(ran) == 6
    assert captured == []
    monkeypatch.undo()
    assert graphs.DEVICES == ("cuda",)


@pytest.mark.parametrize(
    "wait", [lambda x: x.item(), lambda x: x.nonzero(), lambda x: bool((x > 0).all())]
)
def test_a_step_that_waits_names_the_setting_that_does_without(captured, wait):
    x, steps = torch.ones(2)[:1], StepGraphs(CPU)
    steps.run(0, lambda: wait(x))
    with pytest.raises(RuntimeError, match=r"not permitted .* set generation\.graphs=false"):
        steps.run(0, lambda: wait(x))
