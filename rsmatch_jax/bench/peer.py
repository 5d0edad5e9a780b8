"""Times FixMatch's train step beside PyTorch's, in one process.

PyTorch runs as in USB, with and without its loader, and as lean as it allows. Without
PyTorch there are JAX's rows alone and no figure.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import command_line, frame, machine, timing, workload
from rsmatch_jax.engine import checks
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError, RunFailed

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
INSTALL = "pip install -r requirements-torch.txt"

Contender = tuple[frame.Row, timing.Run]  # a row without times, and its program


def contender(
    name: str,
    precision: str,
    form: str,
    partner: str | None = None,
    workers: int | None = None,
    needed: int | None = None,
) -> frame.Row:
    """A row without times.

    form: XLA, eager or compiled. partner: JAX's row that it is compared with. workers:
    processes that make its batches, None without a loader. needed: the number of
    workers for a fair comparison. Lean torch is fair if it is compiled.
    """
    return {
        "row": name,
        "precision": precision,
        "form": form,
        "partner": partner,
        "loader_workers": workers,
        "loader_workers_wanted": needed,
        "fair": workers == needed and (name, form) != (LEAN, "eager"),
    }


def check(config: Any):
    """Raises RequestError if the step in PyTorch lacks what the config wants."""
    if not config.model.classifier.startswith("wrn_"):
        raise RequestError(
            f"--config.model.classifier={config.model.classifier}: the network in "
            "PyTorch is a WideResNet; use wrn_28_2 or another wrn_DEPTH_WIDTH"
        )
    for key, only in WRITTEN_FOR.items():
        value = checks.get(config, key)
        if value != only:
            raise RequestError(
                f"--config.{key}={value}: the step in PyTorch supports {only} alone; "
                "leave it out"
            )


def measure(request: frame.Request) -> frame.Measured:
    """Times JAX's programs and, if it is installed, PyTorch's.

    Raises RequestError, see `check`, or RunFailed if a GPU's memory is too small.
    """
    check(request.config)
    kind = request.kind
    # Lean torch computes in bfloat16 on a GPU, so one of JAX's rows does, too.
    dtypes = [request.config.model.dtype, *(["bfloat16"] if kind == "gpu" else [])]
    experiments = []
    for dtype in dict.fromkeys(dtypes):
        values = {"method.name": "fixmatch", "model.dtype": dtype}
        experiments.append(workload.build(request.config, values, request.device))
    d = experiments[0].dims
    images = d.batch_size + 2 * d.unlabeled_batch
    terminal.say(
        f"FixMatch, {images} rows of {workload.describe(experiments[0])}, "
        f"host: {machine.cores()} cores"
    )
    rival = _torch(experiments[0], request.device)
    try:
        in_turns, alone = _ours(experiments)
        if rival is not None:
            partners = [row["row"] for row, _ in in_turns + alone]
            fixed, loaded = _theirs(rival, partners, lean_bfloat16=kind == "gpu")
            in_turns, alone = in_turns + fixed, alone + loaded
        least, ahead = LEAST_SECONDS[kind], getattr(rival, "ahead", 0)
        seconds = _time(in_turns, alone, least, ahead)
    except Exception as e:
        if type(e).__name__ != "OutOfMemoryError":  # torch's; torch may be missing
            raise
        raise RunFailed(
            f"PyTorch found too little memory beside JAX ({e}): set "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.3, or use a smaller batch by "
            "--config.train.batch_size"
        ) from e
    finally:
        if rival is not None:
            rival.close()
    table = [row for row, _ in in_turns + alone]
    return [row | timed_columns(seconds, row, images) for row in table], {}


def _time(
    in_turns: Sequence[Contender],
    alone: Sequence[Contender],
    least: float,
    ahead: int,
) -> dict[str, np.ndarray]:
    """Seconds per step, {row: float [rounds]}; ahead: batches that a loader prepares.

    Programs with input do not take turns with others: their workers continue in the
    background, which would disturb others and prepare batches before their own turn.
    """
    runs = {row["row"]: run for row, run in in_turns}
    seconds = timing.in_turns(runs, least, ROUNDS)
    for row, run in alone:
        name, workers, units = row["row"], row["loader_workers"], None
        if workers is not None:
            run(1)  # starts the workers
            run(ahead)  # batches that were prepared before
            units = {name: 2 * workers}  # they deliver in bursts
        seconds |= timing.in_turns({name: run}, least, ROUNDS, units)
    return seconds


def timed_columns(
    seconds: Mapping[str, np.ndarray], row: frame.Row, images: int
) -> frame.Row:
    """A row's columns from seconds per step, {row: float [rounds]}.

    images: rows through the network per step. jax_speed_ratio: the partner's speed
    over this row's, within a round if both took turns; absent without a partner.
    """
    times = seconds[row["row"]]
    columns = timing.columns("ms", 1e3 * times)
    columns |= timing.rates(columns["ms"], images)
    if row["partner"] is None:
        return columns
    ours = seconds[row["partner"]]
    if row["loader_workers"] is None:
        return columns | timing.columns("jax_speed_ratio", times / ours)
    # Timed one after the other: no common rounds, so the widest quartiles.
    ours, theirs = timing.spread(ours), timing.spread(times)
    columns["jax_speed_ratio"] = theirs.median / ours.median
    quartiles = [theirs.low / ours.high, theirs.high / ours.low]
    return {**columns, "jax_speed_ratio_quartiles": quartiles}


def _ours(
    experiments: Sequence[Experiment],
) -> tuple[list[Contender], list[Contender]]:
    """JAX on a fixed batch in every precision, one step per dispatch; and with input,
    as training runs it, in the last precision."""

    def row(name, exp):
        precision = dtype = exp.config.model.dtype
        if dtype == "float32" and exp.devices[0].platform == "gpu":
            precision += " (TF32 convolutions)"
        return contender(f"{name}, {dtype}", precision, "XLA")

    fixed = [(row(OURS, exp), workload.step_program(exp).run) for exp in experiments]
    last = experiments[-1]
    source = workload.resident_feed(last)
    run = functools.partial(workload.FeedProgram(last, source).run, most=source.most)
    return fixed, [(row(OURS_INPUT, last), run)]


def _theirs(
    rival: Any, partners: Sequence[str], lean_bfloat16: bool
) -> tuple[list[Contender], list[Contender]]:
    """PyTorch's steps on a fixed batch; and with USB's loader, if workers can run.

    partners: JAX's rows: on a fixed batch, the last of these in lean torch's precision,
    and with input.
    """
    run, form = rival.lean(bfloat16=lean_bfloat16)
    usb, lean, loader = partners[0], partners[-2], partners[-1]
    precision = rival.precision(False)
    fixed = [
        (contender(USB, precision, "eager", usb), rival.usb_fixed),
        (contender(LEAN, rival.precision(lean_bfloat16), form, lean), run),
    ]
    if not rival.workers:
        return fixed, []
    workers = (rival.workers, rival.needed)
    row = contender(USB_LOADER, precision, "eager", loader, *workers)
    return fixed, [(row, rival.usb_loader)]


def _torch(exp: Experiment, device: jax.Device) -> Any:
    """The programs in PyTorch; None, and a line with the reason, without PyTorch."""
    if device.platform == "cpu":
        # Read when torch is loaded. Waiting threads would spin: beside other processes
        # a step takes up to ten times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from rsmatch_jax.bench.rivals import torch_programs  # lazy: torch is optional
    except (ImportError, OSError) as e:  # OSError: a library that it links to
        terminal.say(f"PyTorch: not measured because it is missing ({e}); {INSTALL}")
        return None
    torch_device = torch_programs.device(device.platform)
    if torch_device is None:
        terminal.say(
            f"PyTorch: not measured because the installed one sees no {device.platform}"
        )
        return None
    return torch_programs.Programs(exp, torch_device)


TABLE = {
    "step": "row",
    "precision": "precision",
    "form": "form",
    "workers": frame.Column("loader_workers", 0),
    "ms/step": frame.Column("ms", 1),
    "steps/s": frame.Column("steps_per_second"),
    "images/s": frame.Column("images_per_second", 0),
    "JAX is x as fast": frame.Column("jax_speed_ratio"),
}
BENCH = frame.Bench(
    "peer", measure, TABLE, LIMITS, presets=PRESETS, fixed=("method.name",)
)
