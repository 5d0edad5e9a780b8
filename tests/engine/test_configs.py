"""Every config builds and takes two steps at reduced size."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
from support.helpers import batches, build, config, train

from rsmatch_jax.engine import checks

NAMES = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[2] / "configs").glob("*.py")
    if path.stem not in ("ablations", "studies")  # sweeps as data: test_grid.py
)
SWITCHES = {  # with these no other test trains networks
    "method.rsmatch.fake_head": False,
    "method.rsmatch.queue_sample": "class_balanced",
    "train.weak_forward": "separate",
    "method.threshold": 0.1,
}


@pytest.mark.parametrize("name", NAMES)
def test_config_is_valid_and_takes_two_steps(name):
    """With small networks and batches, and `fake` in place of downloaded sets."""
    checks.check(importlib.import_module(f"configs.{name}").get_config(), num_devices=1)
    data = {"data.name": "fake", "data.image_size": None}  # it is made at 8 px
    data = {} if name == "digits" else data
    take_two_steps(name=name, **data)


def test_an_ablation_takes_two_steps():
    checks.check(config(**SWITCHES), 1)
    take_two_steps(**SWITCHES)


def take_two_steps(**overrides):
    _, _, exp = build(**overrides)
    state, metrics = train(exp, batches(exp, 2))
    assert int(state.step) == 2
    assert all(np.isfinite(v) for v in metrics[-1].values())
    trained = (state.params, state.ema, state.stats, state.opt_state)
    for leaf in jax.tree.leaves(trained):
        assert leaf.dtype in (np.float32, np.int32)
