"""What compiler options make of FixMatch's train step: each one alone, against the
default, all in one process."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import request, results, timing, workload
from rsmatch_jax.bench.harness.results import interval, number
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import TrainState

DEFAULT = "default"
AGAIN = "default again"  # the same program with itself: what noise alone makes
Options = Mapping[str, bool | int | str]
# What CUDA graphs may hold by default in jaxlib 0.10 and 0.11. An option gives the
# whole list: the "+CONVOLUTION" of the environment variable is refused.
CAPTURED = "CONDITIONAL,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,FUSION"
OPTIONS: dict[str, dict[str, Options]] = {  # by the platform of the device
    "gpu": {
        AGAIN: {},
        "command buffers with convolutions": {
            "xla_gpu_enable_command_buffer": f"{CAPTURED},CONVOLUTION"
        },
        "convolutions in NHWC": {"xla_gpu_force_conv_nhwc": True},
        "convolution fusion": {"xla_gpu_experimental_enable_conv_fusion": True},
        "deterministic": {"xla_gpu_deterministic_ops": True},
        "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
        "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    },
    "cpu": {
        AGAIN: {},
        "no YNNPACK, as in this package": compilation.OPTIONS["cpu"],
        "fast math": {"xla_cpu_enable_fast_math": True},
        "oneDNN": {"xla_cpu_use_onednn": True},
        "convolutions on one thread": {"xla_cpu_multi_thread_eigen": False},
    },
}
COMPARED_STEPS = 2
LEAST_SECONDS = {"cpu": 0.0, "gpu": 0.2}  # of one program's turn in a round
ROUNDS = {"cpu": 11, "gpu": 11}
SECONDS = 180.0
LIMITS: dict[str, results.Limit] = {}


def main(argv: list[str]):
    """Measures, shows a table and a sentence, and writes --out=FILE.json.

    --seconds=N: no option is begun after that; the ones left out are named.
    """
    asked = request.parse(argv, define=_define)
    own = OPTIONS["cpu" if asked.device.platform == "cpu" else "gpu"]
    content = measure(asked, own, asked.values.seconds)
    results.show([_shown(row) for row in content["rows"]])
    terminal.say(f"\n{verdict(content['rows'])}")
    results.deliver(asked, content, LIMITS)


def measure(
    asked: request.Request,
    options: Mapping[str, Options],
    seconds: float = SECONDS,
    rounds: int | None = None,
    clock: timing.Clock = time.perf_counter,
) -> dict[str, Any]:
    """The bench's JSON. options: {label: compiler options}; one that this jaxlib does
    not know, or with which the step fails, is a row with the reason as "failed".

    seconds: by `clock`, after which no further option is begun. rounds: None for the
    preset's. Compile seconds are as they are: "compilation_cache" says of a row whether
    JAX's persistent one was on.
    """
    begin = clock()
    exp = workload.build(asked.config, {"method.name": "fixmatch"}, asked.device)
    terminal.say(
        f"FixMatch, {exp.dims.batch_size} labelled + {exp.dims.unlabeled_batch} "
        f"unlabelled images a step, on {asked.device.device_kind}, with "
        f"compiler options one at a time: {len(options)} programs"
    )
    start = exp.init_state()
    batch = parallel.shard_rows(workload.random_batch(exp), exp.devices)
    lowered = exp.train_step().lower(start, batch)
    default = Program(lowered, {}, start, batch)
    losses = default.losses(COMPARED_STEPS)
    table, of_default, left = [], [], list(options)
    while left and clock() - begin < seconds:
        label = left.pop(0)
        row = _row(label, options[label])
        table.append(row)
        try:
            program = Program(lowered, options[label], start, batch)
            row["compile_seconds"] = program.compile_seconds
            row["temp_bytes"] = program.temp_bytes
            got = program.losses(COMPARED_STEPS)
            row["loss_difference"] = loss_difference(got, losses)
            walls = workload.in_turns(
                {DEFAULT: default.run, label: program.run},
                LEAST_SECONDS[asked.preset],
                rounds or ROUNDS[asked.preset],
            )
            of_default.append(walls[DEFAULT])
            row |= results.timed(walls, label, DEFAULT)
            row["default_ms"] = 1e3 * float(np.median(walls[DEFAULT]))
        # Whatever the compiler or a kernel raises is an answer.
        except Exception as e:
            row["failed"] = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
            if not default.works():
                terminal.say("the default fails by now, too: no more can be timed")
                break
        terminal.say(f"  {label}: {row['failed'] or 'timed'}")
    if left:
        terminal.say(f"left out: {', '.join(left)}")
    first = {**_row(DEFAULT, {}), "loss_difference": 0.0}
    first["compile_seconds"] = default.compile_seconds
    first["temp_bytes"] = default.temp_bytes
    if of_default:  # all of its turns; a row has the median of those beside its own
        first |= results.timed({DEFAULT: np.concatenate(of_default)}, DEFAULT, DEFAULT)
        first["default_ms"] = first["ms"]
    return results.document(asked, "flags", {}, [first, *table])


class Program:
    """A train step compiled with `options`, and a copy of the state `start`."""

    def __init__(self, lowered: Any, options: Options, start: TrainState, batch: Any):
        begin = time.perf_counter()
        self._step = lowered.compile(compiler_options=dict(options) or None)
        self.compile_seconds = time.perf_counter() - begin
        memory = self._step.memory_analysis()
        self.temp_bytes = None if memory is None else memory.temp_size_in_bytes
        self._state, self._batch = jax.device_put(start, may_alias=False), batch

    def run(self, steps: int):
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))

    def losses(self, steps: int) -> list[float]:
        """Of the next steps."""
        found = []
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch)
            found.append(float(metrics["loss"]))
        return found

    def works(self) -> bool:
        try:
            self.run(1)
        except Exception:  # whatever it is
            return False
        return True


def loss_difference(got: Sequence[float], want: Sequence[float]) -> float:
    """Largest relative difference; nan where one is nan."""
    return float(np.max(np.abs(np.subtract(got, want)) / np.abs(want)))


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sentence on the rows: what was faster than the default in three quarters of
    the rounds or more, and by more than the default was faster than itself."""
    own = (DEFAULT, AGAIN)
    timed = [r for r in rows if r["ratio"] is not None and r["row"] not in own]
    noise = [r["ratio_quartiles"][0] for r in rows if r["row"] == AGAIN and r["ratio"]]
    bound = min([1.0, *noise])
    faster = [
        f"{row['row']} ({number(row['ratio'])} of its time)"
        for row in timed
        if row["ratio_quartiles"][1] < bound
    ]
    if faster:
        return f"faster than the default beyond the quartiles: {', '.join(faster)}"
    return f"none of {len(timed)} was faster than the default beyond the quartiles"


def _row(label: str, options: Options) -> dict[str, Any]:
    """With nothing measured yet."""
    return {
        "row": label,
        "options": dict(options),
        "ms": None,
        "ms_quartiles": None,
        "default_ms": None,
        "ratio": None,
        "ratio_quartiles": None,
        "compile_seconds": None,
        "temp_bytes": None,
        "compilation_cache": jax.config.jax_compilation_cache_dir is not None,
        "loss_difference": None,
        "failed": None,
    }


def _define(values: absl_flags.FlagValues):
    absl_flags.DEFINE_float(
        "seconds",
        SECONDS,
        "After which no further option is begun.",
        lower_bound=0.0,
        flag_values=values,
    )


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    apart = row["loss_difference"]
    return {
        "compiler options": row["row"],
        "ms/step": number(row["ms"]),
        "quartiles": interval(row["ms_quartiles"]),
        "default's": number(row["default_ms"]),
        "/ default": number(row["ratio"], 3),
        "its quartiles": interval(row["ratio_quartiles"], 3),
        "temp MB": number(row["temp_bytes"] and row["temp_bytes"] / 1e6, 0),
        "compile s": number(row["compile_seconds"], 1),
        "cache": "on" if row["compilation_cache"] else "off",
        "loss apart": "-" if apart is None else f"{apart:.1e}",
        "failed": row["failed"] or "",
    }
