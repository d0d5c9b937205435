"""Greedy choices on the device: those of the plain rule, and one wait for each."""

import numpy as np
import torch
from test_lazy_greedy import plain_farthest, plain_greedy

from emulated.gpu import Gpu
from xmas.selection.rules.lazy_greedy import farthest_points, quality_and_diversity


def test_greedy_choices_on_the_device(gpu: Gpu):
    """Points are there alone: an operator with a tensor of the host would be refused."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(101, 7))
    assert torch.cuda.is_available()
    assert farthest_points(points, 53, front=13).tolist() == plain_farthest(points, 53)
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    quality = rng.integers(0, 5, 101) / 4
    order, gains = quality_and_diversity(quality, units, 53, front=13)
    assert order.tolist() == plain_greedy(quality, units, 53)
    assert np.isfinite(gains).all()


def test_a_choice_waits_once(gpu: Gpu):
    points = np.random.default_rng(0).normal(size=(97, 3))
    waits = []
    for count in (29, 59):
        with gpu.counting() as counted:
            farthest_points(points, count, front=97)
        waits.append(sum(counted.waits.values()))
    assert waits[1] - waits[0] == 30
