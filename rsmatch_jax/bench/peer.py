"""FixMatch's train step beside PyTorch's, in one process: as USB runs it, with and
without its loader, and as lean as PyTorch allows.

Needs PyTorch; without it there are our rows alone and no figure.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rsmatch_jax import terminal
from rsmatch_jax.bench import loop
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import Limit, interval, number
from rsmatch_jax.engine import checks, config_file
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError, RunFailed

OURS, OURS_INPUT = "JAX, fixed batch", "JAX, its own input"
USB, USB_LOADER = "torch as in USB, fixed batch", "torch as in USB, its loader"
LEAN = "torch lean, fixed batch"
PRESETS = {
    "cpu": {"train.batch_size": 8, "train.unlabeled_ratio": 7},
    "gpu": {"model.dtype": "bfloat16"},
}
LIMITS = {
    "C8": Limit("JAX / torch as in USB speed, fixed batch", 0.35, 0.5, at_least=True),
    "G7": Limit("JAX / torch as in USB speed, with input", 2, 3, at_least=True),
    "G8": Limit("JAX / lean torch speed, fixed batch", 0.9, 1.1, at_least=True),
}
# What the step in PyTorch has, and nothing else.
WRITTEN_FOR = {
    "model.wrn_preact": "usb",
    "train.weak_forward": "cat",
    "optim.ema_warmup": False,
    "optim.warmup_steps": 0,
}
NETWORK = {"model.classifier": "wrn_28_2", "train.unlabeled_ratio": 7}
MEASURED_AT = {
    "cpu": {**NETWORK, "train.batch_size": 8, "model.dtype": "float32"},
    "gpu": {**NETWORK, **workload.VIEWS, "train.batch_size": 64},
}
LEAST_SECONDS = {"cpu": 0.0, "gpu": 0.3}  # of one program's turn in a round
ROUNDS = 7
INSTALL = "pip install -r requirements-torch.txt"


@dataclasses.dataclass(frozen=True)
class Contender:
    """form: XLA, eager or compiled. partner: the row of ours that it is compared with.
    workers: processes that make its batches, None for those without; wanted: how many
    a fair comparison takes."""

    row: str
    run: timing.Run
    precision: str
    form: str
    partner: str | None = None
    workers: int | None = None
    wanted: int | None = None

    def columns(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "precision": self.precision,
            "form": self.form,
            "loader_workers": self.workers,
            "loader_workers_wanted": self.wanted,
            "partner": self.partner,
        }


def main(argv: list[str]):
    """Measures, shows two tables, and writes --out=FILE.json."""
    if "method.name" in config_file.override_keys(argv):
        raise RequestError(
            "--config.method.name: this bench runs FixMatch; leave it out"
        )
    asked = request.parse(argv, PRESETS)
    if not asked.config.model.classifier.startswith("wrn_"):
        raise RequestError(
            f"--config.model.classifier={asked.config.model.classifier}: the network "
            "in PyTorch is a WideResNet; use wrn_28_2 or another wrn_DEPTH_WIDTH"
        )
    for key, value in WRITTEN_FOR.items():
        if checks.get(asked.config, key) != value:
            raise RequestError(
                f"--config.{key}={checks.get(asked.config, key)}: the step in "
                f"PyTorch is written for {value} alone; leave it out"
            )
    content = measure(asked)
    results.show([_shown(row) for row in content["rows"]])
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request,
    num_unlabeled: int = workload.NUM_CLASSES * workload.PER_CLASS,
    least_seconds: float | None = None,
    rounds: int | None = None,
) -> dict[str, Any]:
    """The bench's JSON. num_unlabeled: images to draw from; least_seconds: None for the
    device's own; rounds: None for ROUNDS.

    Raises RunFailed where the GPU's memory is too small for both.
    """
    kind = "cpu" if asked.device.platform == "cpu" else "gpu"
    least = LEAST_SECONDS[kind] if least_seconds is None else least_seconds
    rounds = ROUNDS if rounds is None else rounds
    # Lean torch is in bfloat16 on a GPU, so one row of ours is, too.
    dtypes = [asked.config.model.dtype, *(["bfloat16"] if kind == "gpu" else [])]
    experiments = [_experiment(asked, dtype) for dtype in dict.fromkeys(dtypes)]
    d = experiments[0].dims
    images = d.batch_size + 2 * d.unlabeled_batch
    terminal.say(
        f"FixMatch, {d.batch_size} labelled + {d.unlabeled_batch} unlabelled images a "
        f"step ({images} rows), {asked.config.model.classifier}, on "
        f"{asked.device.device_kind}, host: {results.cores()} cores"
    )
    rival = _torch(experiments[0], asked.device, num_unlabeled)
    try:
        *early, ours = _ours(experiments, num_unlabeled)
        late = [ours]
        if rival is not None:
            early += _fixed(rival, experiments, lean_bfloat16=kind == "gpu")
            late += _loaded(rival, experiments)
        seconds = workload.in_turns({c.row: c.run for c in early}, least, rounds)
        # Those with input each in a stretch of its own: workers go on in the
        # background, and would disturb others' turns and be ready before their own.
        for c in late:
            units = None
            if c.workers is not None:
                c.run(1)  # starts them
                c.run(rival.ahead)  # batches that were made before
                units = {c.row: 2 * c.workers}  # they deliver in bursts
            seconds |= workload.in_turns({c.row: c.run}, least, rounds, units)
    except Exception as e:
        if type(e).__name__ != "OutOfMemoryError":  # of torch, which may not be there
            raise
        raise RunFailed(
            f"PyTorch found too little memory beside JAX ({e}): set "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.3, or take a smaller batch by "
            "--config.train.batch_size"
        ) from e
    finally:
        if rival is not None:
            rival.close()
    table = [{**c.columns(), **timed_columns(seconds, c, images)} for c in early + late]
    found = figures(table, asked.config, asked.preset, asked.device.platform)
    content = results.document(asked, "peer", found, table)
    if rival is not None:
        content["versions"]["torch"] = rival.version
    return content


def timed_columns(
    seconds: Mapping[str, np.ndarray], contender: Contender, images: int
) -> dict[str, Any]:
    """A row's columns from seconds a step, {row: float [rounds]}; images: rows through
    the network a step. jax_speed_ratio: the partner's speed over this row's, within
    rounds where both had their turns in the same ones."""
    own = seconds[contender.row]
    wall = timing.spread(own)
    columns = {
        **results.wall(wall),
        "steps_per_second": 1 / wall.median,
        "images_per_second": images / wall.median,
        "jax_speed_ratio": None,
        "jax_speed_ratio_quartiles": None,
    }
    if contender.partner is None:
        return columns
    if contender.workers is None:
        _, ratio = timing.ratios(seconds, contender.row)[contender.partner]
    else:
        # Measured one after the other: no rounds in common, so the widest quartiles.
        ours = timing.spread(seconds[contender.partner])
        ratio = timing.Spread(
            wall.median / ours.median, wall.low / ours.high, wall.high / ours.low
        )
    return columns | {
        "jax_speed_ratio": ratio.median,
        "jax_speed_ratio_quartiles": [ratio.low, ratio.high],
    }


def figures(
    table: list[dict[str, Any]], config: Any, preset: str, platform: str
) -> dict[str, dict[str, Any]]:
    """{ID: figure}, at the sizes and on the kind of device that the limit is for alone;
    without G7 where workers were missing, without G8 where nothing was compiled."""
    rows, found = {row["row"]: row for row in table}, {}

    def add(name: str, label: str):
        if label in rows:
            value = rows[label]["jax_speed_ratio"]
            quartiles = rows[label]["jax_speed_ratio_quartiles"]
            found[name] = LIMITS[name].figure(value, timing.Spread(value, *quartiles))

    if preset != platform or not workload.holds(config, MEASURED_AT[preset]):
        return {}
    if platform == "cpu":
        add("C8", USB)
        return found
    loaded = rows.get(USB_LOADER)
    if loaded and loaded["loader_workers"] == loaded["loader_workers_wanted"]:
        add("G7", USB_LOADER)
    if LEAN in rows and rows[LEAN]["form"] == "compiled":
        add("G8", LEAN)
    return found


def _experiment(asked: request.Request, dtype: str) -> Experiment:
    values = {"method.name": "fixmatch", "model.dtype": dtype}
    return workload.build(asked.config, values, asked.device)


def _name(label: str, exp: Experiment) -> str:
    return f"{label}, {exp.config.model.dtype}"


def _ours(experiments: list[Experiment], num_unlabeled: int) -> list[Contender]:
    """One step a dispatch on a fixed batch in every precision; with input, as training
    runs it, in the last one."""
    made = []
    for exp in experiments:
        program = workload.Program(exp)
        made.append((_name(OURS, exp), program.run, exp))
    last = experiments[-1]
    made.append((_name(OURS_INPUT, last), _resident(last, num_unlabeled), last))
    return [Contender(row, run, _precision(exp), "XLA") for row, run, exp in made]


def _precision(exp: Experiment) -> str:
    dtype = exp.config.model.dtype
    tf32 = dtype == "float32" and exp.devices[0].platform == "gpu"
    return f"{dtype} (TF32 convolutions)" if tf32 else dtype


def _resident(exp: Experiment, num_unlabeled: int) -> timing.Run:
    """Steps that find their images and make their views on the device."""
    dims = dataclasses.replace(exp.dims, num_unlabeled=num_unlabeled)
    source = workload.resident_feed(dataclasses.replace(exp, dims=dims))
    return loop.Program(exp, source).turns(source.most)


def _torch(exp: Experiment, device: jax.Device, num_unlabeled: int) -> Any:
    """The programs in PyTorch, or None and a line that says why."""
    if device.platform == "cpu":
        # Read when torch is loaded. Its threads would spin where they wait: with other
        # processes about, a step takes up to ten times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from rsmatch_jax.bench.rivals import (
            torch_programs,  # lazy: torch, which is optional
        )
    except (ImportError, OSError) as e:  # OSError: a library that it links to
        terminal.say(f"PyTorch: not measured, for it is missing ({e}); {INSTALL}")
        return None
    found = torch_programs.device(device.platform)
    if found is None:
        terminal.say(
            f"PyTorch: not measured, for the one installed sees no {device.platform}"
        )
        return None
    return torch_programs.Programs(exp, found, num_unlabeled)


def _fixed(
    rival: Any, experiments: list[Experiment], lean_bfloat16: bool
) -> list[Contender]:
    run, form = rival.lean(bfloat16=lean_bfloat16)
    usb, lean = (_name(OURS, exp) for exp in (experiments[0], experiments[-1]))
    return [
        Contender(USB, rival.usb_fixed, rival.precision(False), "eager", usb),
        Contender(LEAN, run, rival.precision(lean_bfloat16), form, lean),
    ]


def _loaded(rival: Any, experiments: list[Experiment]) -> list[Contender]:
    """USB's step with its loader, where there is room for one."""
    if not rival.workers:
        return []
    return [
        Contender(
            USB_LOADER,
            rival.usb_loader,
            rival.precision(False),
            "eager",
            _name(OURS_INPUT, experiments[-1]),
            rival.workers,
            rival.wanted,
        )
    ]


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    workers = row["loader_workers"]
    return {
        "step": row["row"],
        "precision": row["precision"],
        "form": row["form"],
        "workers": "-" if workers is None else str(workers),
        "ms/step": number(row["ms"], 1),
        "quartiles": interval(row["ms_quartiles"], 1),
        "steps/s": number(row["steps_per_second"]),
        "images/s": number(row["images_per_second"], 0),
        "JAX is x as fast": number(row["jax_speed_ratio"]),
        "its quartiles": interval(row["jax_speed_ratio_quartiles"]),
    }
