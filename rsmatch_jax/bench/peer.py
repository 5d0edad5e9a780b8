"""Times FixMatch's train step beside PyTorch's, in one process.

PyTorch runs as in USB, with and without its loader, and as lean as it allows.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import command_line, frame, timing, workload
from rsmatch_jax.engine import checks
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RunFailed

OURS, OURS_INPUT = "JAX, fixed batch", "JAX, its own input"
USB, USB_LOADER = "torch as in USB, fixed batch", "torch as in USB, its loader"
LEAN = "torch lean, fixed batch"
PRESETS = {
    **command_line.PRESETS,
    "cpu": {"train.batch_size": 8, "train.unlabeled_ratio": 7},
}
# The only values that the step in PyTorch implements.
WRITTEN_FOR = {
    "model.wrn_preact": "usb",
    "train.weak_forward": "cat",
    "optim.ema_warmup": False,
    "optim.warmup_steps": 0,
}
NETWORK = {"model.classifier": "wrn_28_2", "train.unlabeled_ratio": 7}
_CPU = {"cpu": {**NETWORK, "train.batch_size": 8, "model.dtype": "float32"}}
_GPU = {"gpu": {**NETWORK, **workload.VIEWS, "train.batch_size": 64}}
_speed = functools.partial(frame.Limit, at_least=True, column="jax_speed_ratio")
_USB = "JAX / torch as in USB speed"
LIMITS = {
    "C8": _speed(f"{_USB}, fixed batch", 0.35, 0.5, row=USB, at=_CPU),
    "G7": _speed(f"{_USB}, with input", 2, 3, row=USB_LOADER, at=_GPU),
    "G8": _speed("JAX / lean torch speed, fixed batch", 0.9, 1.1, row=LEAN, at=_GPU),
}
LEAST_SECONDS = {"cpu": 0.0, "gpu": 0.3}  # of one program's turn in a round
ROUNDS = 7


class Contender(NamedTuple):
    """A program, and what its row says about it.

    form: XLA, eager or compiled. partner: JAX's row that it is compared with. workers,
    needed: processes that make its batches, and those for a fair comparison. ahead:
    None = takes turns with others. A program with input runs alone, because its workers
    continue in the background: they would disturb others and prepare batches before
    their turn. ahead is the number of batches that a loader prepares.
    """

    name: str
    precision: str
    form: str
    run: timing.Run
    partner: str | None = None
    workers: int | None = None
    needed: int | None = None
    ahead: int | None = None

    def row(self, seconds: Mapping[str, np.ndarray], images: int) -> frame.Row:
        """The row, from seconds per step, {row: float [rounds]}.

        images: rows through the network per step. fair: with enough workers, lean torch
        if compiled. jax_speed_ratio: the partner's speed over this row's, within a
        round if both took turns; absent without a partner.
        """
        times = seconds[self.name]
        eager = (self.name, self.form) == (LEAN, "eager")
        row: frame.Row = {
            "row": self.name,
            "precision": self.precision,
            "form": self.form,
            "partner": self.partner,
            "loader_workers": self.workers,
            "loader_workers_wanted": self.needed,
            "fair": self.workers == self.needed and not eager,
            **timing.timed(times, images=images),
        }
        if self.partner is None:
            return row
        ours = seconds[self.partner]
        if self.workers is None:
            return row | timing.columns("jax_speed_ratio", times / ours)
        # Timed one after the other: no common rounds, so the widest quartiles.
        ours, theirs = timing.spread(ours), timing.spread(times)
        row["jax_speed_ratio"] = theirs.median / ours.median
        quartiles = [theirs.low / ours.high, theirs.high / ours.low]
        return {**row, "jax_speed_ratio_quartiles": quartiles}


def check(config: Any):
    """Raises RequestError if the step in PyTorch lacks what the config wants."""
    if not re.fullmatch(r"wrn_\d+_\d+", config.model.classifier):
        way_out = "PyTorch's is a WideResNet; use wrn_28_2 or another wrn_DEPTH_WIDTH"
        checks.refuse(config, "model.classifier", way_out)
    for key, only in WRITTEN_FOR.items():
        if checks.get(config, key) != only:
            way_out = f"the step in PyTorch supports {only} alone; leave it out"
            checks.refuse(config, key, way_out)


def measure(request: frame.Request) -> frame.Measured:
    """Times JAX's programs and, if it is installed, PyTorch's. Raises RequestError, see
    `check`, or RunFailed if a GPU's memory is too small."""
    check(request.config)
    on_gpu = request.kind == "gpu"
    # Lean torch computes in bfloat16 on a GPU, so one of JAX's rows does, too.
    dtypes = [request.config.model.dtype, *(["bfloat16"] if on_gpu else [])]
    experiments = []
    for dtype in dict.fromkeys(dtypes):
        values = {"method.name": "fixmatch", "model.dtype": dtype}
        experiments.append(workload.build(request.config, values, request.device))
    images = workload.images_per_step(experiments[0])
    try:
        contenders = _ours(experiments)
        contenders += _theirs(experiments[0], [c.name for c in contenders])
        contenders.sort(key=lambda c: c.ahead is not None)
        seconds = _time(contenders, LEAST_SECONDS[request.kind])
    except Exception as e:
        if type(e).__name__ != "OutOfMemoryError":  # torch's; torch may be missing
            raise
        raise RunFailed(
            f"PyTorch found too little memory beside JAX ({e}): set "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.3, or use a smaller batch by "
            "--config.train.batch_size"
        ) from e
    return [c.row(seconds, images) for c in contenders], {}


def _time(contenders: Sequence[Contender], least: float) -> dict[str, np.ndarray]:
    """Seconds per step, {row: float [rounds]}."""
    together = {c.name: c.run for c in contenders if c.ahead is None}
    seconds = timing.in_turns(together, least, ROUNDS)
    for c in contenders:
        if c.ahead is None:
            continue
        units = {}
        if c.ahead and c.workers:
            c.run(1)  # starts the workers
            c.run(c.ahead)  # batches that were prepared before
            units[c.name] = 2 * c.workers  # they deliver in bursts
        seconds |= timing.in_turns({c.name: c.run}, least, ROUNDS, units)
    return seconds


def _ours(experiments: Sequence[Experiment]) -> list[Contender]:
    """JAX on a fixed batch in every precision, one step per dispatch; and with input,
    as training runs it, in the last precision."""

    def contender(name, exp, run, ahead=None):
        precision = dtype = exp.config.model.dtype
        if dtype == "float32" and exp.devices[0].platform == "gpu":
            precision += " (TF32 convolutions)"
        return Contender(f"{name}, {dtype}", precision, "XLA", run, ahead=ahead)

    result = [contender(OURS, x, workload.step_program(x).run) for x in experiments]
    program = workload.FeedProgram(experiments[-1])
    return [*result, contender(OURS_INPUT, experiments[-1], program.run, 0)]


def _theirs(exp: Experiment, partners: Sequence[str]) -> list[Contender]:
    """PyTorch's programs; none, and a line with the reason, without PyTorch. partners:
    JAX's rows, see `torch_programs.contenders`."""
    if exp.devices[0].platform == "cpu":
        # Read when torch is loaded. Waiting threads would spin: beside other processes
        # a step takes up to ten times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from rsmatch_jax.bench.rivals import torch_programs  # lazy: torch is optional
    except (ImportError, OSError) as e:  # OSError: a library that it links to
        terminal.say(f"PyTorch: not measured ({e}); pip install torch")
        return []
    return torch_programs.contenders(exp, partners)


TABLE = (
    *("row", "precision", "form", "loader_workers"),
    *("ms", "steps_per_second", "images_per_second", "jax_speed_ratio"),
)
BENCH = frame.Bench(
    "peer", measure, TABLE, LIMITS, presets=PRESETS, fixed=("method.name",)
)
