"""What must not change: training compiles nothing after the second step, no convolution
sits in a loop on a CPU, and four devices train as one does.

On four virtual devices of the CPU, wherever it is started.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import child, request, results, workload
from rsmatch_jax.bench.harness import hlo as hlo_text
from rsmatch_jax.bench.harness.results import Limit
from rsmatch_jax.engine import config_file, feed
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError, RunFailed

DEVICES = 4
SIZES = {
    "model.classifier": "wrn_10_1",
    "model.detector": "wrn_10_1",
    "model.dtype": "float32",
    "train.batch_size": 16,
    "train.unlabeled_ratio": 2,
}
# With larger images one of millions of activations lies so near the kink of the leaky
# ReLU that rounding decides its slope, and then more differs than rounding.
PIXELS = 8
STEPS = 10  # that one and four devices are compared over
FIRST = 1000  # of the steps in which compilations are counted: an epoch ends among them
COUNTED = 50
LIMITS = {
    "C9": Limit("programs compiled after step 2 of 50", 0, 0),
    "C9_loops": Limit("convolutions in loops on a CPU", 0, 0),
    "C10_params": Limit("parameters, 4 devices - 1, after a step", 1e-6, 1e-6),
    "C10_losses": Limit("losses, 4 devices / 1 - 1, over 10 steps", 1e-5, 1e-5),
    "C10_queue": Limit("share of queue entries equal", 1, 1, at_least=True),
}
_FLAG = "--xla_force_host_platform_device_count"
_CHILD = "RSMATCH_BENCH_FOUR_DEVICES"  # set for the process that measures


def main(argv: list[str]):
    """Measures, shows its figures, and writes --out=FILE.json."""
    request.check(argv, lambda values: None)
    if _CHILD not in os.environ:
        code = child.run("invariants", argv[1:], environment=_environment())
        child.require_success(code, f"the process with {DEVICES} devices")
        return
    own = set(SIZES) & set(config_file.override_keys(argv))
    if own:
        raise RequestError(f"--config.{min(own)}: this bench sets it; leave it out")
    asked = request.parse(argv, request.AS_CONFIGURED)
    content = measure(asked)
    results.deliver(asked, content, LIMITS)


def measure(asked: request.Request) -> dict[str, Any]:
    """The bench's JSON. Raises RunFailed without DEVICES devices, all of them CPUs."""
    terminal.say(
        f"RSMatch, {SIZES['model.classifier']}, 16 + 32 images "
        f"of {PIXELS} pixels a step, on CPUs"
    )
    devices = jax.local_devices()[:DEVICES]
    if len(devices) < DEVICES or devices[0].platform != "cpu":
        raise RunFailed(
            f"XLA_FLAGS={os.environ.get('XLA_FLAGS')} leaves {len(devices)} "
            f"{devices[0].platform} device(s) of {DEVICES} CPUs; clear it"
        )
    one, many = (_trained(asked, devices[:n]) for n in (1, DEVICES))
    compiled, loops = _compiled(asked, devices[0])
    values = {
        "C9": compiled,
        "C9_loops": loops,
        "C10_params": max(
            float(np.max(np.abs(a - b)))
            for a, b in zip(one.params, many.params, strict=True)
        ),
        "C10_losses": float(np.max(np.abs(many.losses / one.losses - 1))),
        "C10_queue": float(np.mean(one.queue == many.queue)),
    }
    return results.document(
        asked,
        "invariants",
        {name: LIMITS[name].figure(value) for name, value in values.items()},
        [{"row": LIMITS[k].unit, "value": v} for k, v in values.items()],
    )


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that grows by one entry with every program that JAX compiles or takes from
    its cache within the block."""
    seen, counting = [], True

    def note(event: str, seconds: float, **_):
        del seconds
        if counting and event.endswith("backend_compile_duration"):
            seen.append(event)

    # There is no public way to take a listener off again.
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield seen
    finally:
        counting = False


def _experiment(asked: request.Request, *devices: jax.Device) -> Experiment:
    values = {**step.ROWS["rsmatch"], **SIZES}
    return workload.build(asked.config, values, *devices, size=PIXELS)


class _Trained(NamedTuple):
    """params: float64 arrays after one step; losses: float64 [STEPS]; queue: all of
    its numbers after STEPS, flat."""

    params: list[np.ndarray]
    losses: np.ndarray
    queue: np.ndarray


def _trained(asked: request.Request, devices: list[jax.Device]) -> _Trained:
    exp = _experiment(asked, *devices)
    source = feed.ResidentFeed(exp, workload.random_task(exp), None)
    state, losses, params = exp.init_state(), [], []
    for done in range(STEPS):
        state, dispatched = source.run(state, done, 1)
        losses.append(float(dispatched.metrics["loss"]))
        if not done:
            params = [np.asarray(x, np.float64) for x in jax.tree.leaves(state.params)]
    queue = [np.ravel(x) for x in jax.tree.leaves(state.extra["queue"])]
    return _Trained(params, np.array(losses), np.concatenate(queue))


def _compiled(asked: request.Request, device: jax.Device) -> tuple[int, int]:
    exp = _experiment(asked, device)
    source = feed.ResidentFeed(exp, workload.random_task(exp), None)
    state = exp.init_state()
    loops = hlo_text.convolutions_in_loops(source.compile(state).as_text())
    for done in range(FIRST, FIRST + 2):
        state, _ = source.run(state, done, 1)
    jax.block_until_ready(state)
    with compilations() as seen:
        for done in range(FIRST + 2, FIRST + COUNTED):
            state, _ = source.run(state, done, 1)
        jax.block_until_ready(state)
    return len(seen), loops


def _environment() -> dict[str, str]:
    given = os.environ.get("XLA_FLAGS", "")
    flags = f"{given} {_FLAG}={DEVICES}".strip()  # the last of two holds
    return {_CHILD: "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
