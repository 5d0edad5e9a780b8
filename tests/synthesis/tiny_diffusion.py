"""One set of shapes for all tests of diffusion, because compiling takes the time, and
how a step on several devices is compared."""

import functools

import jax
import numpy as np
import pytest

from rsmatch_jax.synthesis.ddpm import settings

TINY = settings.Settings(
    per_class=2,
    steps=60,
    batch_size=32,
    learning_rate=1e-2,
    width=8,
    ema_decay=0.9,
    sampling_steps=3,
    sampling_batch=12,
)


def assert_one_equals_four(step):
    """step: takes the number of devices, returns (gradient, loss)."""
    (gradient, loss), (gradient_4, loss_4) = (step(n) for n in (1, 4))
    assert loss == pytest.approx(loss_4, rel=1e-5)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    assert largest > 0.01
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-4 * largest),
        gradient,
        gradient_4,
    )
