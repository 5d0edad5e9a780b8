"""What a synthetic image counts in Eq. 6, against numpy row by row."""

import numpy as np
import pytest
from support.table_networks import (
    TAU,
    WEIGHTS,
    B,
    U,
    batch,
    log_softmax,
    method_of,
    rows,
    run,
    softmax,
)

from rsmatch_jax.methods.rsmatch import STATISTICS

STEPS, N = 20, 30


def stream():
    rng = np.random.default_rng(8)
    for _ in range(STEPS):
        b = batch(rng, B, U)
        yield b.replace(indices=rng.integers(0, N, U).astype(np.int32))


def of_row(choice, weak, strong, label):
    """The formulas of the module, for one image's probabilities by the real head."""
    if choice == "confidence":
        return weak.max()
    s = 1.0 - strong[label]
    return float(np.exp(-((s - 0.5) ** 2) / (2 * 0.2**2)))


@pytest.mark.parametrize("choice", ["confidence", "difficulty"])
def test_losses_over_20_steps(choice):
    """On one device and on four; Eq. 5 is as ever, and the weight has no gradient: the
    fake table moves by plain SGD as the weighted cross-entropy says."""
    keys = {
        "method.rsmatch.routing": "statistics",
        "method.rsmatch.synthetic_weight": choice,
    }
    synthetic = np.random.default_rng(1).random(N) < 0.6
    runs, seen = {}, []
    for devices in (1, 4):
        dims, method, nets, params = method_of(**keys)
        extra = method.init_extra(dims) | {STATISTICS: synthetic}
        runs[devices] = run(method, nets, params, extra, stream(), devices, rate=0.5)
    for b, step, other in zip(stream(), runs[1], runs[4], strict=True):
        tables = {
            k: np.asarray(v, np.float64) for k, v in step.params["classifier"].items()
        }
        weak, strong = softmax(tables["real"][rows(b.weak)]), rows(b.strong)
        real, fake, slope = 0.0, 0.0, np.zeros_like(tables["fake"])
        for i, row in enumerate(strong):
            label = weak[i].argmax()
            if weak[i].max() < TAU:
                continue
            if not synthetic[b.indices[i]]:
                real -= log_softmax(tables["real"][row])[label] / U
                continue
            p = softmax(tables["real"][row])
            weight = of_row(choice, weak[i], p, label)
            seen.append(weight)
            fake -= weight * log_softmax(tables["fake"][row])[label] / U
            slope[row] += weight * (
                softmax(tables["fake"][row]) - np.eye(len(p))[label]
            )
        np.testing.assert_allclose(step.metrics["loss_unsup"], real, 1e-5, 1e-6)
        np.testing.assert_allclose(step.metrics["loss_unsup_fake"], fake, 1e-5, 1e-6)
        got = step.metrics["grads"]["classifier"]["fake"]
        factor = WEIGHTS["method.unsup_weight"] * WEIGHTS["method.rsmatch.fake_weight"]
        np.testing.assert_allclose(got, factor * slope / U, 1e-4, 1e-6)
        for head, table in step.params["classifier"].items():
            np.testing.assert_allclose(
                other.params["classifier"][head], table, atol=1e-5
            )
    assert len(seen) > STEPS
    assert np.ptp(seen) > 0.1
