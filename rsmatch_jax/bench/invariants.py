"""Checks what must not change, on four virtual devices of the CPU.

Training compiles nothing after the second step, no convolution sits in a loop on a
CPU, and four devices train as one does.
"""

import contextlib
import functools
import os
from collections.abc import Generator

import jax
import numpy as np

from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import frame, hlo, workload
from rsmatch_jax.errors import RunFailed

DEVICES = 4
SIZES = {
    "model.classifier": "wrn_10_1",
    "model.detector": "wrn_10_1",
    "model.dtype": "float32",
    "train.batch_size": 16,
    "train.unlabeled_ratio": 2,
}
# With larger images one of millions of activations lies so near the kink of the leaky
# ReLU that rounding decides its slope. Then more differs than rounding.
PIXELS = 8
STEPS = 10  # over which one and four devices are compared
FIRST = 1000  # step from which compilations are counted; an epoch ends soon after it
COUNTED = 50
_limit = functools.partial(frame.Limit, any_device=True)
LIMITS = {
    "C9": _limit("programs compiled after step 2 of 50", 0, 0),
    "C9_loops": _limit("convolutions in loops on a CPU", 0, 0),
    "C10_params": _limit("parameters, 4 devices - 1, after a step", 1e-6, 1e-6),
    "C10_losses": _limit("losses, 4 devices / 1 - 1, over 10 steps", 1e-5, 1e-5),
    "C10_queue": _limit("share of queue entries equal", 1, 1, at_least=True),
}


def measure(request: frame.Request) -> frame.Measured:
    """Trains on one and on four devices, and counts compilations. Raises RunFailed if
    there are not four devices, all CPUs."""
    devices = jax.local_devices()[:DEVICES]
    if len(devices) < DEVICES or devices[0].platform != "cpu":
        raise RunFailed(
            f"XLA_FLAGS={os.environ.get('XLA_FLAGS')} leaves {len(devices)} "
            f"{devices[0].platform} device(s) of {DEVICES} CPUs; clear it"
        )
    params, losses, queue = zip(
        _trained(request, devices[0]), _trained(request, *devices), strict=True
    )
    compiled, loops = _compiled(request, devices[0])
    values = {
        "C9": compiled,
        "C9_loops": loops,
        "C10_params": float(np.max(np.abs(params[0] - params[1]))),
        "C10_losses": float(np.max(np.abs(losses[1] / losses[0] - 1))),
        "C10_queue": float(np.mean(queue[0] == queue[1])),
    }
    return [{"row": LIMITS[k].unit, "value": v} for k, v in values.items()], values


@contextlib.contextmanager
def compilations() -> Generator[list[str]]:
    """Yields a list that gets an entry for every program that JAX compiles or takes
    from its cache within the block."""
    seen = []

    def note(event: str, duration_secs: float, **_: str | int):
        del duration_secs
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def _program(request: frame.Request, *devices: jax.Device) -> workload.FeedProgram:
    values = step.ROWS["rsmatch"]
    exp = workload.build(request.config, values, *devices, size=PIXELS)
    return workload.FeedProgram(exp)


def _trained(request: frame.Request, *devices: jax.Device) -> list[np.ndarray]:
    """[parameters after one step, losses [STEPS], the queue after STEPS], each all
    numbers, flat float64."""
    program = _program(request, *devices)
    losses = [program.run(1)["loss"]]
    params = jax.device_get(program.state.params)
    losses += [program.run(1)["loss"] for _ in range(STEPS - 1)]
    return [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.float64)
        for tree in (params, losses, program.state.extra["queue"])
    ]


def _compiled(request: frame.Request, device: jax.Device) -> tuple[int, int]:
    """(programs compiled after step 2 of COUNTED, convolutions in loops)."""
    program = _program(request, device)
    program.done = FIRST
    for _ in range(2):
        program.run(1)
    with compilations() as seen:
        for _ in range(COUNTED - 2):
            program.run(1)
    module = hlo.Module(program.compiled.as_text())
    return len(seen), module.convolutions_in_loops()


def _on_four_devices(_) -> dict[str, dict[str, str]]:
    flag = f"--xla_force_host_platform_device_count={DEVICES}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()  # the last one counts
    return {"environment": {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}}


TABLE = ("row", "value")
BENCH = frame.Bench(
    "invariants",
    measure,
    TABLE,
    LIMITS,
    presets={"cpu": SIZES, "gpu": SIZES},
    fixed=SIZES,
    rerun=_on_four_devices,
)
