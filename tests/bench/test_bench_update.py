"""The bench of the update: every form is the same recursion, and what it counts."""

import jax
import numpy as np
from support import benches

from rsmatch_jax.bench import update
from rsmatch_jax.bench.harness import workload

DETECTOR = (
    "--config.method.rsmatch.detector_learning_rate=0.1",
    "--config.method.rsmatch.detector_weight_decay=0.01",
    "--config.optim.ema_warmup=True",
    "--config.train.num_steps=5",
)


def by_numpy(start, grads, steps):
    """Nesterov momentum, coupled weight decay and EMA with a warm-up, in float64."""
    rates = {"classifier": (0.03, 5e-4), "detector": (0.1, 0.01)}
    params, ema = {}, {}
    for name, (rate, decay) in rates.items():

        def recursion(p, g, rate=rate, decay=decay):
            p, g = np.float64(p), np.float64(g)
            b, s = np.zeros_like(p), p
            for t in range(steps):
                full = g + (decay * p if p.ndim > 1 else 0)
                b = 0.9 * b + full
                p = p - rate * np.cos(7 / 16 * np.pi * t / 5) * (full + 0.9 * b)
                d = min(0.999, (1 + t) / (10 + t))
                s = d * s + (1 - d) * p
            return p, s

        pairs = jax.tree.map(recursion, start.params[name], grads[name])
        outer = jax.tree.structure(start.params[name])
        both = jax.tree.transpose(outer, jax.tree.structure((0, 0)), pairs)
        params[name], ema[name] = both
    return [params, ema]


def test_all_forms_of_the_update_are_the_recursion():
    exp = benches.experiment("rsmatch", *DETECTOR)
    start = exp.init_state()
    grads = jax.tree.map(lambda p: 1e-2 * (2 - np.asarray(p)), start.params)
    want = by_numpy(start, grads, 3)
    assert workload.difference(want[0], jax.device_get(start.params)) > 1e-3
    programs = [update.update(exp, form) for form in (start, exp.pack(start))]
    for program in programs:
        program.run(3)
        got = update.weights(exp, program.state)
        assert workload.difference(got, want) <= 1e-6
    costs = [program.cost() for program in programs]
    assert all(c["aliased_leaves"] == c["state_leaves"] for c in costs)
    # A CPU reorders the gradient of each of 20 convolutions before it joins them.
    assert costs[1]["kernels"] < 50 < costs[0]["kernels"] / 2


def test_differences_are_relative_to_a_tensors_scale():
    want = {"a": np.array([2.0, -4.0]), "b": np.zeros(2)}
    assert workload.difference(want, want) == 0
    assert workload.difference({**want, "a": np.array([2.0, -3.0])}, want) == 0.25
    assert workload.difference({**want, "b": np.array([0.0, 1e-9])}, want) == np.inf
    assert np.isnan(workload.difference({**want, "a": np.full(2, np.nan)}, want))
    assert workload.difference([2.0, 3.75], [2.0, 3.0]) == 0.25, "of losses"


def test_update_rows():
    content, rows = benches.measured(update.BENCH)
    assert list(rows) == [
        f"{name}: {form}"
        for name in ("fixmatch", "rsmatch", update.STEP)
        for form in (update.TREE, update.FLAT)
    ]
    for name, row in rows.items():
        assert row["aliased_leaves"] == row["state_leaves"]
        assert (row["ratio"] == 1) == name.endswith(update.TREE)
        # Whole steps may sum their gradients in another order.
        assert row["difference"] <= (1e-4 if name.startswith(update.STEP) else 1e-6)
    figure = content["figures"]["update_equal"]
    assert figure["holds"] and figure["must"] == 1e-6
