"""What selectors rank by, measured on the device: a CPU's values, and nothing in mixed places."""

import dataclasses

import numpy as np
import pytest
from toy import Toy, shared

from xmas.features.activations import Activations
from xmas.features.last_layer import LastLayer
from xmas.features.losses.answer_scorer import ScorerSettings
from xmas.features.losses.answers import Answers
from xmas.training.fit.recipe import Hardware

FEATURES = {
    "activations": lambda proxy: Activations(proxy, step=0, layers=(0, 1), batch_tokens=512),
    "last layer": lambda proxy: LastLayer(proxy, step=0, batch_tokens=700),
    "answers": lambda proxy: Answers(proxy, ScorerSettings(batch_tokens=512, shard_rows=11)),
}


@pytest.mark.parametrize("name", FEATURES)
def test_values_are_those_of_a_cpu(toy: Toy, tmp_path, name):
    expected = np.load(toy.store.get(FEATURES[name](toy.proxy)) / "values.npy")
    store = shared(toy, tmp_path, "proxy")
    proxy = dataclasses.replace(toy.proxy, hardware=Hardware(accelerator="gpu"))
    values = np.load(store.get(FEATURES[name](proxy)) / "values.npy")
    np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-3)  # float16 on disk
